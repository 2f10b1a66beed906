# ruff: noqa: E501  (tables of words)
"""Draft a behaviour file: a rule of the catalogue with its counter-behaviour, for a person to change.

Invariant: pure. The requests are templates around the program's own subjects, so a file holds no sentence of
a log, and forgetting a conversation leaves no trace of it here.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from corpus.checks.requests import requests
from corpus.checks.sides import Rule, Side, sides

REQUIRED = 0.8
"""The required rate of a drafted behaviour."""
CUES: dict[str, tuple[str, ...]] = {
    "max_words": ("too long", "shorter", "too many words", "so much text", "wordy", "be brief", "zu lang", "kürzer", "fass dich kurz"),
    "max_sentences": ("too long", "shorter", "one sentence", "sentences", "zu lang", "kürzer", "einem satz", "sätze"),
    "min_words": ("too short", "more detail", "longer", "zu kurz", "ausführlicher", "mehr details"),
    "no_markdown": ("markdown", "plain text", "asterisks", "formatting", "sternchen", "formatierung", "nur text"),
    "only_code": ("just the code", "only the code", "only code", "code only", "nur den code", "nur code"),
    "json": ("only json", "just json", "valid json", "nur json"),
    "no_emoji": ("emoji", "emojis", "smiley", "smileys", "emoticons"),
    "no_question_at_end": ("stop asking", "follow-up question", "no questions", "hör auf zu fragen", "rückfrage"),
    "asks_first": ("ask me first", "ask first", "you guessed", "dont guess", "frag erst", "frag vorher"),
    "no_apology": ("apologise", "apologize", "apologising", "apologizing", "sorry", "entschuldigen", "entschuldige"),
    "no_flattery": ("flattery", "flatter", "great question", "praise", "compliment", "schmeicheln", "gute frage"),
    "cites_the_input": ("quote my text", "quote me", "zitiere"),
    "bullets": ("bullet points", "as a list", "stichpunkte", "als liste"),
    "numbered": ("numbered", "number the steps", "nummeriert"),
    "headings": ("headings", "überschriften"),
    "spelling": ("british spelling", "british english", "american spelling", "american english", "spelling"),
    "date_format": ("date format", "dates", "datum", "iso"),
    "form_of_address": ("duzen", "siezen", "duz mich", "siez mich", "tutoie", "vouvoie"),
}  # fmt: skip
"""For each check, words in a later complaint that point to its rule."""
_CHOSEN_CUES = {
    "celsius": ("celsius",), "fahrenheit": ("fahrenheit",), "metric": ("metric", "kilometres", "kilometers", "metrisch"),
    "imperial": ("imperial", "miles", "feet"), "euros": ("euro", "euros"), "dollars": ("dollar", "dollars"),
    "pounds": ("pounds", "sterling"), "de": ("german", "deutsch"), "en": ("english", "englisch"), "fr": ("french", "français"),
    "es": ("spanish", "español"), "it": ("italian", "italiano"), "pt": ("portuguese", "português"), "nl": ("dutch", "nederlands"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A drafted behaviour file."""

    name: str
    rule: Rule
    text: str
    """The file, as TOML with comments."""


def draft(check: str, parameters: Mapping[str, Any], *, taken: Collection[str], why: str) -> Draft:
    """Return a behaviour file for a rule of the catalogue.

    Args:
        check: The check.
        parameters: All its parameters.
        taken: Names of the existing behaviours; the new ones get other names.
        why: The first line of the file, which says where the rule comes from.
    """
    rule = sides(check, parameters)
    name = next(
        name
        for name in (rule.name, *(f"{rule.name}_{number}" for number in range(2, len(taken) + 3)))
        if name not in taken and counter_name(name) not in taken
    )
    lines = [
        f"# {why}",
        "# The rule is yours: change any line, then run `nightschool behaviours validate FILE`.",
        "",
        *_side(rule, rule.rule, name, cues(check, parameters), ""),
        "",
        "# When the rule does not hold, and what holds then. Without this a model would learn to do it always.",
        "[counter]",
        *_side(rule, rule.counter, counter_name(name), (), "counter."),
    ]
    return Draft(name=name, rule=rule, text="\n".join(lines) + "\n")


def counter_name(name: str) -> str:
    """Return the name of the counter-behaviour of a drafted behaviour."""
    return f"not_{name}"


def cues(check: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Return words in a later complaint that point to a rule."""
    chosen = [
        cue for value in parameters.values() if isinstance(value, str) for cue in _CHOSEN_CUES.get(value, ())
    ]
    named = [
        str(text).lower()
        for value in parameters.values()
        if isinstance(value, tuple | list)
        for text in value
    ]
    if check == "starts_with":
        named.append(str(parameters["text"]).lower())
    return (*CUES.get(check, ()), *chosen, *named)


def _side(rule: Rule, side: Side, name: str, words: Collection[str], table: str) -> list[str]:
    """Return the lines of one side; `table` is the prefix of its tables."""
    made = requests(rule, side)
    lines = [
        f"name = {_value(name)}",
        f"condition = {_value(side.condition)}",
        f"do = {_value(side.do)}",
        "# What the model is told while it practises; this is removed before training.",
        f"instruction = {_value(side.instruction)}",
        f"required_rate = {REQUIRED}",
    ]
    if words:
        lines += ["# Words in a complaint that point to this rule.", f"cues = {_value(list(words))}"]
    lines += [
        "# The first situations that the model dreams of are like these.",
        *_list("examples", made.examples),
    ]
    lines += ["", f"[{table}judge]", 'kind = "check"', f"check = {_value(side.check)}"]
    if side.parameters:
        inside = ", ".join(f"{key} = {_value(value)}" for key, value in side.parameters.items())
        lines.append(f"parameters = {{ {inside} }}")
    lines += [
        f"{key} = {_value(value)}" for key, value in (("when", side.when), ("unless", side.unless)) if value
    ]
    if not side.holds:
        lines += ["# A good answer on this side does not pass the check.", "holds = false"]
    lines += ["", "# Measured on these, never trained on them.", f"[{table}held_out]"]
    return [*lines, *_list("scenarios", made.held_out)]


def _list(key: str, texts: Collection[str]) -> list[str]:
    return [f"{key} = [", *(f"    {_value(text)}," for text in texts), "]"]


def _value(value: Any) -> str:
    """Return a text, a number or a list of texts as TOML, whose strings are those of JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


SKELETON = """\
# No check of the catalogue fits these complaints, so this file is yours to write.
# Checks and situations: docs/reference/checks.md. Delete everything to leave the proposal as it is.

name = "rule"
condition = "the user asks for something"
do = ""
instruction = ""
required_rate = 0.8
cues = []
examples = []

[judge]
kind = "check"
check = "max_words"
parameters = { most = 30 }
unless = "detail"

[held_out]
scenarios = []

# When the rule does not hold, and what holds then.
[counter]
name = "not_rule"
condition = "the user asks for detail"
do = ""
instruction = ""
required_rate = 0.8

[counter.judge]
kind = "check"
check = "min_words"
parameters = { least = 60 }
when = "detail"

[counter.held_out]
scenarios = []
"""
"""What a person starts from when there is no draft."""
