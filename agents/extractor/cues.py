"""Read a user's turn by the tables: whether, and how surely, it complains, praises, or changes a wish.

Invariant: pure; a score is between 0 and 1. Each row of a table counts once, however often it matches, so
repeating a complaint does not raise its score. This module knows nothing about behaviours.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from agents.extractor.contrast import contradicts
from agents.extractor.own_words import TAKEN_CHARS, own_words
from agents.extractor.tables import COMMON, OF_TURNS, Language, form, recognised, tables

READ_CHARS = 320
"""Number of characters of a turn that are scored: a complaint comes first, pasted text below it."""
ENOUGH = 0.5
"""Lowest score at which a turn counts as a correction, an approval, a new constraint or a changed mind."""
ANSWERS_A_QUESTION = 0.45
"""Score that a leading "no" loses when the assistant had asked a question."""
CLEARLY = 0.25
"""Smallest score of the rows about behaviour, or about the task, at which they say what a complaint is of."""
REFUSAL_CHARS = 500
"""Number of characters at the beginning of an answer in which a refusal or a warning is looked for."""
ASKS_BACK_CHARS = 240
"""Number of characters up to which an answer that ends with a question is nothing but a question back."""

_CODE = re.compile(r"```(?s:.*?)(?:```|\Z)|^>[^\n]*$|^(?: {4}|\t)[^\n]*$", re.MULTILINE)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the words of a user's turn say about the answer before."""

    complaint: float
    """How strongly the words say that the answer was wrong."""
    of: str | None
    """What a complaint is of: `behaviour` (how the assistant answers), `task` (what came out), None if the
    words do not say."""
    approval: float
    """How strongly the words say that the answer was right."""
    constraint: float
    """How strongly the words add a wish to the request."""
    changed: float
    """How strongly the words say that the user wants something else now."""
    again: bool
    """Whether the turn begins as a request does that is made once more ("ok but ...")."""
    against: tuple[str, ...]
    """The words of the complaint, in the order of the text."""
    praise: tuple[str, ...]
    """The words of the praise, in the order of the text."""
    added: tuple[str, ...]
    """The words of the new or changed wish, in the order of the text."""


NOTHING = Reading(
    complaint=0, of=None, approval=0, constraint=0, changed=0, again=False, against=(), praise=(), added=()
)
"""The reading of a turn that says nothing about the answer."""


def folded(text: str) -> str:
    """Return the text in lower case, with straight quotes and single spaces and no invisible characters."""
    words = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text[:TAKEN_CHARS])).lower()
    for quote in "\u2018\u2019\u02bc\u0060\u00b4":
        words = words.replace(quote, "'")
    return " ".join(words.split())


def plain(text: str) -> str:
    """Return the text without code and quoted lines, in the form of `folded`."""
    return folded(_CODE.sub(" ", text[:TAKEN_CHARS]))


def read(text: str, *, request: str = "", answer: str = "", failed: bool = False) -> Reading:
    """Return the reading of a user's turn.

    Args:
        text: The user's turn.
        request: The request that was answered.
        answer: The answer just before the turn. If it ends with a question, a leading "no" may only reply to
            the question.
        failed: Whether the answer is known to be wrong, so that "no" is no reply to its question.
    """
    context = form(request[:TAKEN_CHARS])
    likely = recognised(form(text[:READ_CHARS]), context)
    words = form(own_words(text, request=request, answer=answer, languages=likely))[:READ_CHARS]
    asked = not failed and ends_with_question(answer)
    readings = []
    for language in likely:
        differs = contradicts(words, language.code, request=context, answer=answer[:TAKEN_CHARS])
        readings.append(_by_table(words, language, asked=asked, differs=("", 0.0) if asked else differs))
    return max(readings, key=lambda one: max(one.complaint, one.approval, one.constraint, one.changed))


def _by_table(words: str, language: Language, *, asked: bool, differs: tuple[str, float]) -> Reading:
    """Return the reading of a turn's own words by one table and the common one."""
    found = language.read(words)
    for name, more in tables()[COMMON].read(words).items():
        found[name] = found.get(name, []) + more
    scores = {name: sum(weight for _, weight in found.get(name, ())) for name in OF_TURNS}
    matched = {
        name: [(match.start(), match.group().strip()) for match, _ in some] for name, some in found.items()
    }
    if not found and not differs[0]:
        return NOTHING
    complaint = scores["wrong"] + scores["behaviour"] + scores["task"] - scores["harmless"]
    if differs[0]:
        complaint += differs[1]
        scores["task"] += differs[1] if scores["behaviour"] < CLEARLY else 0.0
        matched.setdefault("task", []).append((len(words), differs[0]))
    if asked and scores["no"]:
        complaint -= ANSWERS_A_QUESTION
    praise = scores["approval"] - scores["qualified"]
    return Reading(
        complaint=_clip(complaint),
        of=_of(scores["behaviour"], scores["task"]),
        approval=_clip(praise),
        constraint=_clip(scores["constraint"] - scores["harmless"]),
        changed=_clip(scores["changed"]),
        again=bool(scores["again"]),
        against=_in_order(matched, "wrong", "behaviour", "task"),
        praise=_in_order(matched, "approval"),
        added=_in_order(matched, "constraint", "changed"),
    )


def _of(behaviour: float, task: float) -> str | None:
    if behaviour >= CLEARLY and behaviour >= task:
        return "behaviour"
    return "task" if task >= CLEARLY else None


def _in_order(matched: dict[str, list[tuple[int, str]]], *names: str) -> tuple[str, ...]:
    return tuple(word for _, word in sorted(pair for name in names for pair in matched.get(name, ())))


def ends_with_question(answer: str) -> bool:
    """Return whether an answer ends with a question."""
    return answer.rstrip().rstrip("\"')*_ ").endswith(("?", "\uff1f", "\u061f"))


def holds_back(answer: str, *, request: str = "") -> str:
    """Return how an answer holds back: `refuses` or warns, or `asks back`; "" if it does neither.

    Args:
        answer: The answer.
        request: The request, which helps to recognise the language.
    """
    words = form(answer[:REFUSAL_CHARS])
    for language in recognised(words, form(request[:READ_CHARS])):
        if language.score("refuses", words) >= ENOUGH:
            return "refuses"
    short = len(answer.strip()) <= ASKS_BACK_CHARS
    return "asks back" if short and ends_with_question(answer) else ""


def mentioned(cues: Sequence[str], text: str) -> tuple[str, ...]:
    """Return the cues that occur in the text as whole words, longest first.

    A cue that is part of a longer cue in the result is left out.
    """
    words, matched = plain(text)[: 2 * READ_CHARS], list[str]()
    for cue in sorted(set(cues), key=lambda cue: (-len(cue), cue)):
        if any(cue in longer for longer in matched):
            continue
        if re.search(rf"(?<!\w){re.escape(plain(cue))}(?!\w)", words):
            matched.append(cue)
    return tuple(matched)


def _clip(score: float) -> float:
    return round(min(1.0, max(0.0, score)), 4)
