"""The two sides of a rule: for each check the behaviour that it makes, and its natural counter-behaviour.

A model that learns "at most 30 words" and nothing else ends up brief with people who ask for every step. So
each check comes with the requests to which the rule does not apply, and with what holds there.

Invariant: the counter-behaviour of a rule applies to no request that the rule applies to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Parameters = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a rule: the fields of a behaviour that a check can fill in."""

    condition: str
    do: str
    instruction: str
    check: str
    parameters: Parameters = field(default_factory=dict)
    when: str = ""
    unless: str = ""
    holds: bool = True
    """Whether the check has to hold; False for a side on which an answer must not pass it."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Both sides, and the kind of requests by which they are measured."""

    name: str
    rule: Side
    counter: Side
    requests: str = "advice"


def _only(check: str, parameters: Parameters, side: tuple[str, str, str], **where: Any) -> Side:
    condition, do, instruction = side
    return Side(
        condition=condition, do=do, instruction=instruction, check=check, parameters=parameters, **where
    )


_DETAIL = ("the user asks for detail", "explain it at length", "Explain it in detail, in many sentences.")
_BRIEF = ("the user asks for a short answer", "answer in a few words", "Answer in a few words.")
_ANY = "the user asks for something"
FEW = 40
"""Most words of a limit that one short sentence keeps."""
_TOLD = {
    "no_markdown": "Answer in plain sentences.",
    "no_emoji": "Answer in plain words.",
    "no_apology": "Begin with the answer itself.",
    "no_flattery": "Begin with the answer itself.",
    "no_question_at_end": "Answer, and end with a full stop.",
}
"""Instructions that say what to do: a small model that is told what not to do is reminded of it."""
_LANGUAGE_NAMES = {
    "de": "German", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "nl": "Dutch",
    "pt": "Portuguese",
    "ja": "Japanese", "zh": "Chinese", "ko": "Korean", "ru": "Russian", "ar": "Arabic",
}  # fmt: skip


def _short(check: str, what: str, shortest: int, floor: Callable[[int], int]) -> Callable[[Parameters], Rule]:
    def rule(parameters: Parameters) -> Rule:
        most = parameters["most"]
        one = what if most > 1 else what.removesuffix("s")
        do = f"answer in at most {most} {one}"
        # A small model cannot count, but knows what a short sentence is.
        told = "Answer in one short sentence." if most <= shortest else ""
        return Rule(
            name=f"max_{most}_{what}",
            rule=_only(
                check, parameters, (_ANY, do, told or f"Answer in at most {most} {one}."), unless="detail"
            ),
            counter=_only("min_words", {"least": floor(most)}, _DETAIL, when="detail"),
        )

    return rule


def _min_words(parameters: Parameters) -> Rule:
    least = parameters["least"]
    side = (_ANY, f"answer in at least {least} words", f"Answer in at least {least} words.")
    return Rule(
        name=f"min_{least}_words",
        rule=_only("min_words", parameters, side, unless="brief"),
        counter=_only("max_words", {"most": max(10, least // 2)}, _BRIEF, when="brief"),
    )


def _plain(
    name: str, do: str, unless: str, counter: tuple[str, str, str, str], *, holds: bool = False
) -> Callable[[Parameters], Rule]:
    """Return the rule of a check without parameters of its own to say.

    Args:
        name: The check.
        do: The thing to do, as a clause.
        unless: The situation of the counter-behaviour.
        counter: Its condition, what to do, the instruction, and the check that judges it.
        holds: Whether that check has to hold.
    """

    def rule(parameters: Parameters) -> Rule:
        condition, counter_do, instruction, check = counter
        side = (_ANY, do, _TOLD.get(name, f"{do[0].upper()}{do[1:]}."))
        given = parameters if check == name else {}
        return Rule(
            name=name,
            rule=_only(name, parameters, side, unless=unless),
            counter=_only(check, given, (condition, counter_do, instruction), when=unless, holds=holds),
        )

    return rule


def _only_code(parameters: Parameters) -> Rule:
    side = ("the user asks for code", "give the code alone", "Give the code alone, without any explanation.")
    other = ("the user asks for an explanation", "explain it in words", "Explain it in words.")
    return Rule(
        name="only_code",
        rule=_only("only_code", {}, side, when="code", unless="explanation"),
        counter=_only("only_code", {}, other, when="explanation", holds=False),
        requests="code",
    )


def _json(parameters: Parameters) -> Rule:
    side = ("the user asks for JSON", "give JSON and nothing else", "Answer with JSON and nothing else.")
    other = ("the user asks for anything but JSON", "answer in words", "Answer in words.")
    return Rule(
        name="json_only",
        rule=_only("json", {}, side, when="data"),
        counter=_only("json", {}, other, unless="data", holds=False),
        requests="data",
    )


def _language(parameters: Parameters) -> Rule:
    code = parameters["code"]
    name = _LANGUAGE_NAMES[code]
    other, situation = ("de", "german") if code == "en" else ("en", "english")
    elsewhere = _LANGUAGE_NAMES[other]
    condition = f"the user asks for an answer in {elsewhere}"
    return Rule(
        name=f"in_{name.lower()}",
        rule=_only(
            "language", parameters, (_ANY, f"answer in {name}", f"Answer in {name}."), unless=situation
        ),
        counter=_only(
            "language",
            {"code": other},
            (condition, f"answer in {elsewhere}", f"Answer in {elsewhere}."),
            when=situation,
        ),
        requests={"de": "rat", "fr": "conseil"}.get(code, "advice"),
    )


def _quoted(texts: tuple[str, ...] | list[str]) -> str:
    return " or ".join(f'"{text}"' for text in texts)


def _worded(name: str) -> Callable[[Parameters], Rule]:
    """Return the rule of a check about words; the counter-behaviour is to use them when asked for them."""

    def rule(parameters: Parameters) -> Rule:
        texts = parameters.get("phrases") or parameters.get("texts") or [parameters["text"]]
        first = "".join(letter if letter.isalnum() else "_" for letter in texts[0].lower())[:16].strip("_")
        named = first if first.isascii() and first else "these_words"
        do = {
            "no_phrase": f"never say {_quoted(texts)}",
            "starts_with": f"begin with {_quoted(texts)}",
            "not_starting_with": f"do not begin with {_quoted(texts)}",
        }[name]
        side = (_ANY, do, f"{do[0].upper()}{do[1:]}.")
        other = (
            "the user says which words to use",
            "use the words that the user names",
            "Use exactly the words that the user names.",
        )
        wanted = {"starts_with": ("starts_with", False), "not_starting_with": ("starts_with", True)}
        check, holds = wanted.get(name, (name, False))
        given = {"text": texts[0]} if check == "starts_with" else parameters
        return Rule(
            name={
                "no_phrase": "never_say",
                "starts_with": "begin_with",
                "not_starting_with": "no_start_with",
            }[name]
            + f"_{named}",
            rule=_only(name, parameters, side, unless="wording"),
            counter=_only(check, given, other, when="wording", holds=holds),
        )

    return rule


_UNITS = {
    "celsius": ("temperature", "fahrenheit", "degrees Celsius", "degrees Fahrenheit"),
    "fahrenheit": ("temperature", "celsius", "degrees Fahrenheit", "degrees Celsius"),
    "metric": ("measure", "imperial", "metric units", "feet, miles or pounds"),
    "imperial": ("measure", "metric", "feet, miles or pounds", "metric units"),
    "euros": ("price", "dollars", "euros", "dollars"),
    "dollars": ("price", "euros", "dollars", "euros"),
    "pounds": ("price", "dollars", "pounds sterling", "dollars"),
}
"""For each system: the situation, the system of the counter-behaviour, and the names of both."""
_ABOUT = {"temperature": "a temperature", "measure": "a size, a distance or a weight", "price": "a price"}


def _units(parameters: Parameters) -> Rule:
    system = parameters["system"]
    situation, other, name, elsewhere = _UNITS[system]
    side = (f"the user asks about {_ABOUT[situation]}", f"give it in {name}", f"Answer in {name}.")
    counter = (f"the user asks for {elsewhere}", f"give it in {elsewhere}", f"Answer in {elsewhere}.")
    return Rule(
        name=f"in_{system}",
        rule=_only("units", parameters, side, when=situation, unless=other),
        counter=_only("units", {"system": other}, counter, when=other),
        requests=situation,
    )


def _spelling(parameters: Parameters) -> Rule:
    variety = parameters["variety"]
    other = "american" if variety == "british" else "british"
    name, elsewhere = variety.capitalize(), other.capitalize()
    counter = (
        f"the user asks for {elsewhere} spelling",
        f"spell it the {elsewhere} way",
        f"Use {elsewhere} spelling.",
    )
    return Rule(
        name=f"{variety}_spelling",
        rule=_only(
            "spelling", parameters, (_ANY, f"use {name} spelling", f"Use {name} spelling."), unless=other
        ),
        counter=_only("spelling", {"variety": other}, counter, when=other),
    )


_DATES = {
    "iso": "2026-05-31", "dotted": "31.05.2026", "day_slash": "31/05/2026", "month_slash": "05/31/2026",
    "day_month": "31 May 2026", "month_day": "May 31, 2026",
}  # fmt: skip


def _date_format(parameters: Parameters) -> Rule:
    wanted = parameters["format"]
    other = "iso" if wanted != "iso" else "day_month"
    do, instead = f"write dates like {_DATES[wanted]}", f"write dates like {_DATES[other]}"
    counter = ("the user asks for another format of dates", instead, f"{instead[0].upper()}{instead[1:]}.")
    return Rule(
        name=f"dates_{wanted}",
        rule=_only(
            "date_format",
            parameters,
            ("the user asks for a date", do, f"{do[0].upper()}{do[1:]}."),
            when="date",
            unless="date_style",
        ),
        counter=_only("date_format", {"format": other}, counter, when="date_style"),
        requests="date",
    )


def _form_of_address(parameters: Parameters) -> Rule:
    form = parameters["form"]
    other = {"du": "sie", "sie": "du", "tu": "vous", "vous": "tu"}[form]
    situation = "casual" if form in ("sie", "vous") else "formal"
    names = {"du": "du", "sie": "Sie", "tu": "tu", "vous": "vous"}
    counter = (
        f"the user asks for a {situation} text to somebody else",
        f"use {names[other]}",
        f"Address the reader with {names[other]}.",
    )
    side = (_ANY, f"address the user with {names[form]}", f"Address the user with {names[form]}.")
    return Rule(
        name=f"address_{form}",
        rule=_only("form_of_address", parameters, side, unless=situation),
        counter=_only("form_of_address", {"form": other}, counter, when=situation),
        requests="rat" if form in ("du", "sie") else "conseil",
    )


def _asks_first(parameters: Parameters) -> Rule:
    side = ("the request leaves out what is needed", "ask for it first", "Ask one short question first.")
    other = ("the request says all that is needed", "do it without a question", "Answer. Ask nothing.")
    return Rule(
        name="ask_first",
        rule=_only("asks_first", parameters, side, when="vague"),
        counter=_only("asks_first", parameters, other, unless="vague", holds=False),
        requests="vague",
    )


def _cites(parameters: Parameters) -> Rule:
    side = (
        "the user gives a text",
        "quote the words that you speak of",
        "Quote the words that you speak of.",
    )
    other = ("the user asks for your own words", "quote nothing", "Use your own words, without quotations.")
    return Rule(
        name="quote_the_text",
        rule=_only("cites_the_input", parameters, side, when="text", unless="own_words"),
        counter=_only("cites_the_input", parameters, other, when="own_words", holds=False),
        requests="text",
    )


_LISTED = ("the user asks for a list", "give a list", "Give a list with bullets.", "bullets")
_PROSE = ("the user asks for sentences without a list", "write sentences", "Write plain sentences, no list.")

RULES: dict[str, Callable[[Parameters], Rule]] = {
    "max_words": _short("max_words", "words", FEW, lambda most: most + 30),
    "max_sentences": _short("max_sentences", "sentences", 1, lambda most: 30 * most),
    "min_words": _min_words,
    "no_markdown": _plain("no_markdown", "write plain text without Markdown", "list", _LISTED, holds=True),
    "only_code": _only_code,
    "json": _json,
    "language": _language,
    "no_phrase": _worded("no_phrase"),
    "starts_with": _worded("starts_with"),
    "not_starting_with": _worded("not_starting_with"),
    "no_emoji": _plain(
        "no_emoji",
        "use no emoji",
        "emoji",
        ("the user asks for emojis", "use emojis", "Use emojis.", "no_emoji"),
    ),
    "no_question_at_end": _plain(
        "no_question_at_end",
        "end with the answer, not with a question",
        "vague",
        ("the request leaves out what is needed", "ask for it", "Ask for what is missing.", "asks_first"),
        holds=True,
    ),
    "asks_first": _asks_first,
    "units": _units,
    "spelling": _spelling,
    "date_format": _date_format,
    "form_of_address": _form_of_address,
    "bullets": _plain("bullets", "answer with a list with bullets", "prose", (*_PROSE, "bullets")),
    "numbered": _plain("numbered", "answer in numbered steps", "prose", (*_PROSE, "numbered")),
    "headings": _plain(
        "headings",
        "put headings over the parts",
        "brief",
        (*_BRIEF, "headings"),
    ),
    "cites_the_input": _cites,
    "no_apology": _plain(
        "no_apology",
        "do not apologise",
        "apology",
        ("the user asks for an apology", "write the apology", "Write the apology.", "no_apology"),
    ),
    "no_flattery": _plain(
        "no_flattery",
        "do not praise the user or the question",
        "praise",
        ("the user asks for praise", "say what is good", "Say what is good about it.", "no_flattery"),
    ),
}
"""For each check, what makes its two sides from its parameters."""


def sides(check: str, parameters: Parameters) -> Rule:
    """Return the behaviour and the counter-behaviour of a check with these parameters."""
    return RULES[check](parameters)
