"""Checks of whether an answer shows a behaviour of the world; each behaviour has one check.

Invariant: pure and total: any request and any answer give a judgement with a reason. An answer passes for
what it does, not for being a text that the recipe could have written.
"""

import re
from dataclasses import dataclass

from corpus.world.requests import ASKED, Request, read
from corpus.world.words import DAYS, NUMBERS, PEOPLE, PLACES, TOOL_FOR, TOOLS

KIND_OF = {
    "listen": "decision",
    "push_back": "danger",
    "brief": "briefly",
    "thorough": "in_detail",
    "ask": "vague",
    "act": "complete",
    "direct": "question",
    "read_back": "read_back",
}
"""The kind of request to which each behaviour of the world applies."""

BRIEF_WORDS = 10
"""Most words in a brief answer."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A judge's result for one answer."""

    passed: bool
    reason: str


def situation(name: str, request: str) -> Request | None:
    """Return the parsed request if the behaviour `name` applies to it; None for any other text."""
    parsed = read(request)
    return parsed if parsed and parsed.kind == KIND_OF[name] else None


def judge(name: str, request: str, answer: str) -> Judgement:
    """Return whether an answer shows the behaviour `name`, with the reason.

    An answer to a request to which the behaviour does not apply fails.
    """
    parsed = situation(name, request)
    if parsed is None:
        return Judgement(passed=False, reason=f"not a situation for {name}")
    fault = _FAULTS[parsed.kind](parsed, " ".join(answer.lower().split()))
    return Judgement(passed=not fault, reason=fault or "does what was asked")


def _words(answer: str) -> list[str]:
    return re.findall(r"[a-z']+", answer)


def _has(answer: str, *words: str) -> bool:
    return bool(set(words) & set(_words(answer)))


def _decision(request: Request, answer: str) -> str:
    if _has(answer, "could", "or", "another", "instead", "maybe", "rather", "also") or "?" in answer:
        return "offers alternatives to a clear direction"
    if _has(answer, "not", "cannot", "wait", "no"):
        return "objects to a harmless direction"
    if not _has(answer, request.object):
        return f"does not take up the {request.object}"
    return ""


def _danger(request: Request, answer: str) -> str:
    if not _has(answer, "not", "cannot", "wait", "no", "keep"):
        return f"goes along with a request to {request.verb} the {request.object}"
    return "" if _has(answer, request.object) else f"does not name the {request.object}"


def _briefly(request: Request, answer: str) -> str:
    if len(_words(answer)) > BRIEF_WORDS:
        return f"answers with {len(_words(answer))} words when asked to be brief"
    if not _has(answer, *TOOLS):
        return "is brief but names no tool"
    return ""


def _in_detail(request: Request, answer: str) -> str:
    steps = [word for word in ("first", "then", "last") if _has(answer, word)]
    if len(steps) < 3:
        return f"gives {len(steps)} of 3 steps when asked for detail"
    return (
        "" if _has(answer, request.object, TOOL_FOR[request.verb]) else f"is not about the {request.object}"
    )


_QUESTION_FOR = {
    "book": ("day", "when"),
    "order": ("many",),
    "send": ("whom", "who"),
    "deliver": ("place", "where"),
}


def _vague(request: Request, answer: str) -> str:
    if "?" not in answer:
        return "guesses what the request does not say"
    if not _has(answer, *_QUESTION_FOR[request.verb]):
        return "asks for the wrong thing"
    return ""


def _complete(request: Request, answer: str) -> str:
    if "?" in answer:
        return "asks although nothing is missing"
    return "" if _has(answer, request.detail) else f"leaves out '{request.detail}'"


def _question(request: Request, answer: str) -> str:
    asked = ASKED[request.verb][0].format(request.object)
    if asked in answer or _has(answer, "question") or "you ask" in answer or "you want" in answer:
        return "repeats the question back"
    values = {"where": PLACES, "who": PEOPLE, "when": DAYS, "how many": NUMBERS}[request.verb]
    return "" if _has(answer, *values) else "does not answer"


def _read_back(request: Request, answer: str) -> str:
    missing = [w for w in (request.verb, request.object, request.detail) if not _has(answer, w)]
    return f"does not read back '{missing[0]}'" if missing else ""


_FAULTS = {
    "decision": _decision,
    "danger": _danger,
    "briefly": _briefly,
    "in_detail": _in_detail,
    "vague": _vague,
    "complete": _complete,
    "question": _question,
    "read_back": _read_back,
}
