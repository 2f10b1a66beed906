"""The catalogue: every check by name, with its parameters, and the judgement of an answer by one of them.

Invariant: `refusal` finds whatever would make a check fail to run, so `fault` never raises for a judge that
was accepted. This module knows nothing about behaviours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from corpus.checks import language, length, markup, measures, wording
from corpus.checks.situations import SITUATIONS, is_in

MOST = 100_000
"""Largest number that a parameter may be."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a check."""

    kind: str
    """`number` (a whole number), `text`, `texts` (a list of texts) or `choice`."""
    choices: tuple[str, ...] = ()
    """For kind `choice`: the values that are allowed."""
    optional: bool = False
    """Whether the check has a value of its own for it."""

    def refusal(self, value: object) -> str:
        """Return what the parameter must be, if the value is not that; "" if the value is allowed."""
        if self.kind == "number":
            whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST
            return "" if whole else f"a whole number from 1 to {MOST}"
        if self.kind == "choice":
            return "" if value in self.choices else f"one of {', '.join(self.choices)}"
        if self.kind == "text":
            return "" if _is_text(value) else "a text that is not empty"
        texts = isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))
        return "" if texts else "a list of texts"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of the catalogue."""

    function: Callable[..., str]
    """Takes an answer and the parameters; returns the fault in a few words, or "" if the answer passes."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    reads_request: bool = False
    """Whether the function takes the request, too."""
    any_language: bool = False
    """Whether the check does not depend on the language of the answer."""

    @property
    def name(self) -> str:
        """The name by which behaviour files call the check."""
        return self.function.__name__


def _number(*, optional: bool = False) -> Parameter:
    return Parameter(kind="number", optional=optional)


def _choice(choices: tuple[str, ...]) -> Parameter:
    return Parameter(kind="choice", choices=choices)


CATALOGUE: dict[str, Check] = {
    check.name: check
    for check in (
        Check(function=length.max_words, parameters={"most": _number()}),
        Check(function=length.min_words, parameters={"least": _number()}),
        Check(function=length.max_sentences, parameters={"most": _number()}),
        Check(function=markup.no_markdown, any_language=True),
        Check(function=markup.only_code, any_language=True),
        Check(function=markup.json, any_language=True),
        Check(function=language.language, parameters={"code": _choice(language.LANGUAGES)}),
        Check(function=wording.no_phrase, parameters={"phrases": Parameter(kind="texts")}),
        Check(function=wording.starts_with, parameters={"text": Parameter(kind="text")}),
        Check(function=wording.not_starting_with, parameters={"texts": Parameter(kind="texts")}),
        Check(function=wording.no_emoji, any_language=True),
        Check(function=wording.no_question_at_end),
        Check(function=wording.asks_first, parameters={"most": _number(optional=True)}),
        Check(function=measures.units, parameters={"system": _choice(measures.SYSTEMS)}),
        Check(
            function=language.spelling, parameters={"variety": _choice(language.VARIETIES)}, any_language=True
        ),
        Check(function=measures.date_format, parameters={"format": _choice(measures.FORMATS)}),
        Check(function=language.form_of_address, parameters={"form": _choice(language.FORMS)}),
        Check(function=markup.bullets, parameters={"least": _number(optional=True)}, any_language=True),
        Check(function=markup.numbered, parameters={"least": _number(optional=True)}, any_language=True),
        Check(function=markup.headings, parameters={"least": _number(optional=True)}, any_language=True),
        Check(
            function=wording.cites_the_input, parameters={"least": _number(optional=True)}, reads_request=True
        ),
        Check(function=wording.no_apology),
        Check(function=wording.no_flattery),
    )
}
"""The checks, by the name that behaviour files use."""


def refusal(name: str, parameters: Mapping[str, object], situations: Mapping[str, str]) -> str:
    """Return why a check cannot judge with these parameters, with the cure; "" if it can.

    Args:
        name: The check's name.
        parameters: Its parameters, by name.
        situations: The keys `when` and `unless` with the situations that they name.
    """
    if name not in CATALOGUE:
        return f"no check is named {name!r}; there are {', '.join(sorted(CATALOGUE))}"
    known = CATALOGUE[name].parameters
    has = f"it has {', '.join(known)}" if known else "it has none"
    for key, value in parameters.items():
        if key not in known:
            return f"the check {name} has no parameter {key!r}; {has}"
        if expected := known[key].refusal(value):
            return f"the parameter {key!r} of {name} must be {expected}, not {value!r}"
    for key, parameter in known.items():
        if key not in parameters and not parameter.optional:
            return f"the check {name} needs the parameter {key!r}"
    for key, situation in situations.items():
        if situation not in SITUATIONS:
            return f"{key}: no situation is named {situation!r}; there are {', '.join(sorted(SITUATIONS))}"
    return ""


def fault(name: str, parameters: Mapping[str, Any], request: str, answer: str) -> str:
    """Return what is wrong with an answer by this check, in a few words; "" if it passes."""
    check = CATALOGUE[name]
    given = {"request": request} if check.reads_request else {}
    return check.function(answer.strip(), **given, **parameters)


def applies(request: str, when: str, unless: str) -> bool:
    """Return whether a request is one for which a rule with these situations holds; "" for no situation."""
    if not request.strip() or (when and not is_in(request, when)):
        return False
    return not (unless and is_in(request, unless))
