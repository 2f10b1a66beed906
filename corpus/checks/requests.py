"""Requests for the two sides of a rule: for measurements, and for the first dreams.

They are sentences of a few forms around the subjects of `requests.toml`. Invariant: the same rule gives the
same requests, each of which is in its side's situation; no subject of a held-out request is in an example.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from corpus.checks.catalogue import applies
from corpus.checks.sides import Rule, Side

_ASK = {
    "advice": ("How do I {}?", "how can i {}", "What is the best way to {}?", "I want to {}. What do I do?"),
    "rat": ("Wie kann ich {}?", "Ich möchte {}. Was mache ich?", "Was hilft mir, wenn ich {} will?"),
    "conseil": ("Comment puis-je {} ?", "Je voudrais {}. Que faire ?"),
    "temperature": (
        "At what temperature do I {}?",
        "how hot should it be to {}",
        "What temperature is right to {}?",
    ),
    "measure": ("How big is {}?", "What are the length and the weight of {}?", "what is the size of {}"),
    "price": ("What does {} cost?", "how much is {}", "What is a fair price for {}?"),
    "date": ("When was {}?", "On what day was {}?", "What is the date of {}?"),
    "code": ("Write a Python function that {}.", "python code that {}", "I need a function that {}."),
    "data": ("Give me three {} as JSON.", "List four {} as a JSON array.", "json with two {} please"),
    "vague": ("{}",),
    "text": (
        'Is this sentence clear? "{}"',
        'What is the tone of this text: "{}"',
        'Please check my text. "{}"',
    ),
}
"""The forms of a request of each kind."""
_WANTED = {
    "detail": (
        "Explain in detail how to {}.",
        "How do I {}? Step by step, please.",
        "Give me a thorough guide: how do I {}?",
    ),
    "brief": ("How do I {}? Keep it brief.", "In short: how do I {}?", "How do I {}? One sentence."),
    "list": ("Give me a list of tips to {}.", "How do I {}? As bullet points, please."),
    "prose": ("How do I {}? Without a list, please.", "Tell me in a paragraph how to {}."),
    "explanation": (
        "Explain how a function works that {}.",
        "How does a function work that {}? Explain it in words.",
    ),
    "emoji": ("How do I {}? Use emojis.", "Tell me how to {}, with emojis."),
    "apology": (
        "I did not {} as I had promised. Write an apology to my neighbour.",
        "Help me say sorry: I forgot to {}.",
    ),
    "praise": ("I managed to {}. What was good about that?", "I just learnt to {}. Give me a compliment."),
    "fahrenheit": ("At what temperature in Fahrenheit do I {}?", "how many degrees fahrenheit to {}"),
    "celsius": ("At what temperature in Celsius do I {}?", "how many degrees celsius to {}"),
    "imperial": ("How big is {} in feet or inches?", "the size of {} in feet and pounds please"),
    "metric": ("How big is {} in metric units?", "the size of {} in centimetres or kilometres please"),
    "dollars": ("What does {} cost in dollars?", "price of {} in US dollars"),
    "euros": ("What does {} cost in euros?", "price of {} in euros"),
    "date_style": ("When was {}? Use the {other} format.", "The date of {} in the {other} format, please."),
    "american": ("How do I {}? Use American spelling.", "In American English: how do I {}?"),
    "british": ("How do I {}? Use British spelling.", "In British English: how do I {}?"),
    "english": ("How do I {}? Answer in English.", "In English, please: how can I {}?"),
    "german": ("How do I {}? Answer in German.", "In German, please: how can I {}?"),
    "own_words": ('Say this in your own words: "{}"', 'Paraphrase my text. "{}"'),
    "wording": (
        'How do I {}? Begin with the words "{said}".',
        'Tell me how to {}. Start with "{said}", please.',
    ),
}
"""The forms of a request in the situation of a counter-behaviour."""
_IN_GERMAN = {
    "english": ("Wie kann ich {}? Antworte auf Englisch.", "Auf Englisch bitte: wie kann ich {}?"),
    "formal": (
        "Schreib einen förmlichen Brief an einen Kunden, der {} will.",
        "Formell, an das Amt: Rat für Leute, die {} wollen.",
    ),
    "casual": (
        "Schreib einem Freund, der {} will.",
        "Locker, an meinen Kumpel, der {} will: was rätst du ihm?",
    ),
}
_IN_FRENCH = {
    "english": ("Comment puis-je {} ? Réponds en anglais.", "En anglais : comment {} ?"),
    "formal": (
        "Écris une lettre formelle à un client qui veut {}.",
        "De façon formelle, à un client : comment {} ?",
    ),
    "casual": ("Écris à un ami qui veut {}.", "Pour mon copain : comment {} ?"),
}
_SUBJECTS_OF = {"vague": "vague", "own_words": "text"}


@dataclass(frozen=True, kw_only=True)
class Requests:
    """The requests of one side of a rule."""

    held_out: tuple[str, ...]
    examples: tuple[str, ...]


def requests(rule: Rule, side: Side) -> Requests:
    """Return the requests by which one side of a rule is measured, and those that begin its dreams."""
    forms, subjects = _forms(rule, side)
    said = str(next(iter(_said(side)), ""))
    other = "ISO" if side.parameters.get("format") == "iso" else "day-month-year"
    made = {
        name: [
            form.replace("{other}", other).replace("{said}", said).replace("{}", subject)
            for index, subject in enumerate(subjects[name])
            for form in (forms[index % len(forms)],)
        ]
        for name in ("held_out", "examples")
    }
    kept = {
        name: tuple(text for text in texts if applies(text, side.when, side.unless))
        for name, texts in made.items()
    }
    return Requests(**kept)


def _forms(rule: Rule, side: Side) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Return the forms of a side's requests, and the subjects that stand in them."""
    kinds, asked = _subjects(), rule.requests
    if side is rule.rule:
        return _ASK[asked], kinds[asked]
    if side.unless:  # a rule for few requests: its counter-behaviour is about all the others
        return (("Name three {}.", "What are {}?") if asked == "data" else _ASK["advice"]), kinds[
            "data" if asked == "data" else "advice"
        ]
    if side.when == "vague":
        return _ASK["vague"], kinds["vague"]
    local = {"rat": _IN_GERMAN, "conseil": _IN_FRENCH}.get(asked, _WANTED)
    return local.get(side.when) or _WANTED[side.when], kinds[_SUBJECTS_OF.get(side.when, asked)]


def _said(side: Side) -> tuple[str, ...]:
    """Return the words that a side's check is about."""
    parameters = side.parameters
    return tuple(
        parameters.get("phrases") or parameters.get("texts") or filter(None, [parameters.get("text")])
    )


@cache
def _subjects() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((Path(__file__).parent / "requests.toml").read_text("utf-8"))
