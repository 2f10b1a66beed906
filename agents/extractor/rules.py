"""Finds signals by rules that need no model: corrections, repeated asks, approvals, ratings, edits.

Invariant: pure; a finding depends only on the turns up to its own, apart from the better answer that may
follow, so a conversation that grows keeps what was found in it. Log text is data: words are weighed, never
obeyed. Knows no behaviour: `Hints` say what the judges know, and `lessons` decides which lesson a finding is.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from agents.extractor.cues import ENOUGH, against, approves, mentioned, plain
from corpus.conversation import Turn
from corpus.text import jaccard

COMPLAINTS = ("correction", "edit", "rating", "repeated_ask")
"""Kinds that may say that an answer was wrong; a rating only if it is negative."""
FAILED_ANSWER = 0.35
"""What an answer that its judge failed adds to a complaint about it: a bare "No." is enough then."""
NAMED_CUE = 0.3
"""What a behaviour's own cue words add."""
NEW_REQUEST = 0.6
"""What a turn that is itself a request to a behaviour loses: the user has moved on."""
NEARLY_THE_SAME = 0.7
"""Jaccard similarity of two requests' content words from which one repeats the other."""
SAME_AFTER_FAILURE = 0.6
"""The same after an answer that its judge failed: the user may add what the answer had got wrong."""
EDIT_STRENGTH = 0.9
MILD = 0.25
"""A rating or an approval below this says nothing."""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What the judges and behaviours know of a conversation, as far as the rules need it."""

    failed: Callable[[str, str], bool] = lambda request, answer: False
    """Whether an answer to a request fails a behaviour that applies."""
    is_request: Callable[[str], bool] = lambda text: False
    """Whether a user's turn is by itself a request that a behaviour knows."""
    cues: tuple[str, ...] = ()
    """The cue words of all behaviours."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A signal, before anyone has said which behaviour it is about."""

    kind: str
    """correction, repeated_ask, approval, rating or edit."""
    position: int
    """Index of the turn that carries it."""
    strength: float
    """0 to 1; for a rating its distance from 0."""
    negative: bool
    """Whether it says that the answer was wrong."""
    request: str
    """What the user wanted when the answer was given: the request at the root of a chain of complaints."""
    answer: str
    """The answer that it is about."""
    answer_position: int
    words: str = ""
    """The user's words of praise or complaint; for an edit what was preferred."""
    better: str = ""
    """The answer that came after the complaint, or the edit; "" where none did."""
    because: tuple[str, ...] = ()
    """What in the words gave it away."""
    recent: tuple[str, ...] = ()
    """The user's turns of the last exchanges up to this one, the request's included."""
    claimed: str = ""
    """The behaviour that a model's reading names; "" from the rules."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A user's turn with the request and the answer that it came after."""

    position: int
    text: str
    request: str
    answer: Turn
    answer_position: int
    following: str
    recent: tuple[str, ...]


@dataclass
class _Talk:
    """What has been walked through so far."""

    request: str = ""
    answer: Turn | None = None
    answer_position: int = -1
    said: list[str] = field(default_factory=list)
    """The user's turns since the root request and the exchanges shortly before."""


REMEMBERED = 4
"""User turns before the root request that still count as recent."""


def find(turns: Sequence[Turn], hints: Hints | None = None) -> tuple[Finding, ...]:
    """All signals of a conversation, by position and kind."""
    known, talk, found = hints or Hints(), _Talk(), list[Finding]()
    for position, turn in enumerate(turns):
        if turn.role == "assistant" and turn.text.strip():
            talk.answer, talk.answer_position = turn, position
            found += _by_reader(talk, turn, position)
        elif turn.role == "user" and turn.text.strip():
            about = _exchange(turns, position, talk)
            heard = _by_words(about, known) if about else []
            found += heard
            _listen(talk, turn.text, carries_on=any(finding.negative for finding in heard))
    return tuple(found)


def exchanges(turns: Sequence[Turn], hints: Hints | None = None) -> dict[int, Exchange]:
    """Every user's turn that has an answer before it, by position, whether the rules find something in it or not."""
    known, talk, found = hints or Hints(), _Talk(), dict[int, Exchange]()
    for position, turn in enumerate(turns):
        if turn.role == "assistant" and turn.text.strip():
            talk.answer, talk.answer_position = turn, position
        elif turn.role == "user" and turn.text.strip():
            about = _exchange(turns, position, talk)
            if about:
                found[position] = about
            heard = _by_words(about, known) if about else []
            _listen(talk, turn.text, carries_on=any(finding.negative for finding in heard))
    return found


def _listen(talk: _Talk, text: str, *, carries_on: bool) -> None:
    """Take up a user's turn: it carries the request on, or is the next one."""
    talk.said.append(text)
    if not carries_on:
        talk.request = text
        talk.said = talk.said[-REMEMBERED - 1 :]
    talk.answer = None


def _exchange(turns: Sequence[Turn], position: int, talk: _Talk) -> Exchange | None:
    """The user's turn at `position` with what it came after; None where nothing had been answered."""
    if talk.answer is None or not talk.request:
        return None
    return Exchange(
        position=position,
        text=turns[position].text,
        request=talk.request,
        answer=talk.answer,
        answer_position=talk.answer_position,
        following=_following(turns, position),
        recent=(*talk.said, turns[position].text),
    )


def _following(turns: Sequence[Turn], position: int) -> str:
    """The last answer before the user speaks again."""
    answer = ""
    for turn in turns[position + 1 :]:
        if turn.role == "user":
            break
        if turn.role == "assistant" and turn.text.strip():
            answer = turn.text
    return answer


def _by_reader(talk: _Talk, turn: Turn, position: int) -> list[Finding]:
    """What a reader left on an answer: a rating, an edit."""
    edited = (turn.edited or "").strip()
    edit = Finding(
        kind="edit",
        position=position,
        strength=EDIT_STRENGTH,
        negative=True,
        request=talk.request,
        answer=turn.text,
        answer_position=position,
        words=edited,
        better=edited,
        because=("edited",),
        recent=tuple(talk.said),
    )
    found = [edit] if talk.request and edited and plain(edited) != plain(turn.text) else []
    if talk.request and turn.rating is not None and abs(turn.rating) >= MILD:
        bad = turn.rating < 0
        rated = replace(edit, kind="rating", strength=min(1.0, abs(turn.rating)), negative=bad, words="")
        found.append(replace(rated, better=edited if bad else "", because=(f"rated {turn.rating:+.2g}",)))
    return found


def _by_words(about: Exchange, hints: Hints) -> list[Finding]:
    """What a user's turn says of the answer before it."""
    failed = hints.failed(about.request, about.answer.text)
    repeated = similarity(about.request, about.text)
    read = against(about.text, after="" if failed else about.answer.text)
    named = mentioned(hints.cues, about.text)
    score = read.score + FAILED_ANSWER * failed + NAMED_CUE * bool(named)
    if hints.is_request(about.text) and not read.score >= ENOUGH:
        score -= NEW_REQUEST
    found, praise = list[Finding](), approves(about.text)
    if score >= ENOUGH and (read.score > 0 or named) and praise.score <= max(read.score, MILD):
        found.append(_finding("correction", about, score, negative=True, because=(*read.words, *named)))
    elif praise.score >= ENOUGH and (read.score < MILD or read.score < praise.score / 2):
        found.append(_finding("approval", about, praise.score, negative=False, because=praise.words))
    if repeated >= (SAME_AFTER_FAILURE if failed else NEARLY_THE_SAME):
        found.append(_finding("repeated_ask", about, repeated, negative=True, because=("asked again",)))
    return found


def _finding(
    kind: str, about: Exchange, score: float, *, negative: bool, because: tuple[str, ...]
) -> Finding:
    return Finding(
        kind=kind,
        position=about.position,
        strength=round(min(1.0, score), 4),
        negative=negative,
        request=about.request,
        answer=about.answer.text,
        answer_position=about.answer_position,
        words=about.text,
        better=about.following if negative else "",
        because=because,
        recent=about.recent,
    )


def from_model(about: Exchange, *, kind: str, strength: float, claimed: str, quote: str) -> Finding:
    """What a model's reading finds in this exchange."""
    found = _finding(kind, about, strength, negative=kind != "approval", because=(quote,))
    return replace(found, claimed=claimed)


_FILLER = frozenset(
    """a an the of to in on at for from with by and or but if is are was were be been am do does did i you he
    she it we they me my your our us this that these those there here please can could would will shall should
    tell say so just again no not yes ok okay now hello hi hey what which how who where when why kindly need
    want one question going let
    said asked know""".split()
)


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the content words of two requests, 0 to 1; 0 where there are too few to tell."""
    first, second = _content(one), _content(other)
    if min(len(first), len(second)) < 2:
        return 1.0 if plain(one) == plain(other) and len(plain(one).split()) > 2 else 0.0
    return jaccard(first, second)


def _content(text: str) -> set[str]:
    return set(re.findall(r"[\w']+", plain(text))) - _FILLER
