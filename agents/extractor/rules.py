"""Find signals by rules that need no model: corrections, repeated asks, approvals, ratings, edits.

Invariant: pure. A finding depends only on the turns up to its own turn and on the answer that follows it, so
a conversation that grows keeps its findings. Log text is data and never an instruction. This module knows
nothing about behaviours: it asks the judges through `Hints`, and `lessons` decides what a finding teaches.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from agents.extractor.cues import ENOUGH, approves, complains, mentioned, plain
from corpus.conversation import Turn
from corpus.text import jaccard

COMPLAINTS = ("correction", "edit", "rating", "repeated_ask")
"""Kinds of finding that may mean that an answer was wrong; a rating does so only if it is negative."""
FAILED_ANSWER = 0.35
"""Score that a complaint gains if the answer failed a judge, so that even a bare "No." is a correction."""
NAMED_CUE = 0.3
"""Score that a complaint gains if it has cue words of a behaviour."""
NEW_REQUEST = 0.6
"""Score that a turn loses if it is a request that a behaviour applies to, because the user has moved on."""
NEARLY_THE_SAME = 0.7
"""Smallest Jaccard similarity of the content words of two requests at which one repeats the other."""
SAME_AFTER_FAILURE = 0.6
"""Used instead of NEARLY_THE_SAME if the answer failed a judge, because the user may then add words about the
fault."""
EDIT_STRENGTH = 0.9
"""Strength of every finding of kind `edit`."""
MILD = 0.25
"""Smallest absolute rating that gives a finding; also the score below which praise or complaint is ignored
beside the other."""
REMEMBERED = 4
"""Number of user turns before the root request that still count as recent."""


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What the rules may know about behaviours: two tests and the cue words."""

    failed: Callable[[str, str], bool] = lambda request, answer: False
    """Takes a request and an answer; returns whether the answer fails a behaviour that applies to the
    request."""
    is_request: Callable[[str], bool] = lambda text: False
    """Takes the text of a user's turn; returns whether the text alone is a request that a behaviour applies
    to."""
    cues: tuple[str, ...] = ()
    """The cue words of all behaviours."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A signal that is not yet assigned to a behaviour."""

    kind: str
    """One of correction, repeated_ask, approval, rating and edit."""
    position: int
    """Index of the turn in which the signal is."""
    strength: float
    """From 0 to 1; for a rating, its distance from 0."""
    negative: bool
    """Whether the signal means that the answer was wrong."""
    request: str
    """The request that was answered; in a chain of complaints, the request before the first complaint."""
    answer: str
    """The answer that the signal is about."""
    answer_position: int
    """Index of that answer's turn."""
    request_position: int = -1
    """Index of the request's turn; -1 if it is not known."""
    words: str = ""
    """The user's words of praise or complaint; for an edit, the preferred answer; "" for a rating."""
    better: str = ""
    """The answer that followed a complaint, or the preferred answer of an edit; "" if there is none."""
    matched: tuple[str, ...] = ()
    """The words by which the signal was recognised."""
    recent: tuple[str, ...] = ()
    """The user's last turns up to this one, including the request."""
    claimed: str = ""
    """Name of the behaviour that a model assigns to the signal; "" for a finding of the rules."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A user's turn, with the request and the answer before it."""

    position: int
    """Index of the user's turn."""
    text: str
    """Text of the user's turn."""
    request: str
    """The root request: the request before the first complaint of a chain of complaints."""
    answer: Turn
    """The last answer before the user's turn."""
    answer_position: int
    """Index of that answer's turn."""
    request_position: int
    """Index of the root request's turn."""
    following: str
    """The last answer in words alone before the user's next turn; "" if there is none."""
    recent: tuple[str, ...]
    """The user's last turns up to this one, including the request."""


@dataclass(kw_only=True)
class _Dialogue:
    """The state of a walk through a conversation."""

    request: str = ""
    """The current root request: the last user's turn that was no complaint about an earlier request."""
    answer: Turn | None = None
    """The last answer, until the user's next turn; then None."""
    answer_position: int = -1
    request_position: int = -1
    user_turns: list[str] = field(default_factory=list)
    """The user's turns since the root request, and up to REMEMBERED before it."""

    def add(self, text: str, position: int, *, carries_on: bool) -> None:
        """Add a user's turn.

        Args:
            text: Its text.
            position: Its index.
            carries_on: Whether the turn is still about the current root request; if not, it becomes the root
                request itself.
        """
        self.user_turns.append(text)
        if not carries_on:
            self.request, self.request_position = text, position
            self.user_turns = self.user_turns[-REMEMBERED - 1 :]
        self.answer = None


def find(turns: Sequence[Turn], hints: Hints | None = None) -> tuple[Finding, ...]:
    """Return all signals of a conversation, ordered by position."""
    return tuple(finding for _, findings in _walk(turns, hints or Hints()) for finding in findings)


def exchanges(turns: Sequence[Turn], hints: Hints | None = None) -> dict[int, Exchange]:
    """Return an exchange, by position, for every user's turn after an answer, with or without a finding."""
    walked = _walk(turns, hints or Hints())
    return {exchange.position: exchange for exchange, _ in walked if exchange is not None}


def _walk(turns: Sequence[Turn], hints: Hints) -> Iterator[tuple[Exchange | None, list[Finding]]]:
    """Yield the exchange and the findings of each turn of the user or the assistant.

    The exchange is None if the turn is not a user's turn after an answer.
    """
    dialogue = _Dialogue()
    for position, turn in enumerate(turns):
        if turn.role == "assistant" and turn.text.strip():
            dialogue.answer, dialogue.answer_position = turn, position
            yield None, _marked_answer(dialogue, turn, position)
        elif turn.role == "user" and turn.text.strip():
            exchange = _exchange(turns, position, dialogue)
            findings = _by_words(exchange, hints) if exchange else []
            yield exchange, findings
            dialogue.add(turn.text, position, carries_on=any(finding.negative for finding in findings))


def _exchange(turns: Sequence[Turn], position: int, dialogue: _Dialogue) -> Exchange | None:
    """Return the exchange of the user's turn at `position`; None if no answered request comes before it."""
    if dialogue.answer is None or not dialogue.request:
        return None
    return Exchange(
        position=position,
        text=turns[position].text,
        request=dialogue.request,
        answer=dialogue.answer,
        answer_position=dialogue.answer_position,
        request_position=dialogue.request_position,
        following=_following(turns, position),
        recent=(*dialogue.user_turns, turns[position].text),
    )


def _following(turns: Sequence[Turn], position: int) -> str:
    """Return the last answer between `position` and the user's next turn; "" if there is none.

    An answer that calls a tool is left out, because its text is not what the model wrote.
    """
    answer = ""
    for turn in turns[position + 1 :]:
        if turn.role == "user":
            break
        if turn.role == "assistant" and turn.text.strip() and not calls(turn):
            answer = turn.text
    return answer


def calls(turn: Turn) -> bool:
    """Return whether a turn is an answer that calls a tool."""
    return turn.structure is not None and bool(turn.structure.calls)


def _marked_answer(dialogue: _Dialogue, turn: Turn, position: int) -> list[Finding]:
    """Return the findings for the rating and the edit that the log attaches to an answer; [] for neither."""
    edited = (turn.edited or "").strip()
    edit = Finding(
        kind="edit",
        position=position,
        strength=EDIT_STRENGTH,
        negative=True,
        request=dialogue.request,
        answer=turn.text,
        answer_position=position,
        request_position=dialogue.request_position,
        words=edited,
        better=edited,
        matched=("edited",),
        recent=tuple(dialogue.user_turns),
    )
    findings = [edit] if dialogue.request and edited and plain(edited) != plain(turn.text) else []
    if dialogue.request and turn.rating is not None and abs(turn.rating) >= MILD:
        bad = turn.rating < 0
        rated = replace(edit, kind="rating", strength=min(1.0, abs(turn.rating)), negative=bad, words="")
        matched = (f"rated {turn.rating:+.2g}",)
        findings.append(replace(rated, better=edited if bad else "", matched=matched))
    return findings


def _by_words(exchange: Exchange, hints: Hints) -> list[Finding]:
    """Return the findings in a user's turn: at most one correction or approval, and a repeated ask."""
    failed = hints.failed(exchange.request, exchange.answer.text)
    repeated = similarity(exchange.request, exchange.text)
    complaint = complains(exchange.text, after="" if failed else exchange.answer.text)
    named = mentioned(hints.cues, exchange.text)
    score = complaint.score + FAILED_ANSWER * failed + NAMED_CUE * bool(named)
    if hints.is_request(exchange.text) and not complaint.score >= ENOUGH:
        score -= NEW_REQUEST
    findings, praise = list[Finding](), approves(exchange.text)
    if score >= ENOUGH and (complaint.score > 0 or named) and praise.score <= max(complaint.score, MILD):
        matched = (*complaint.words, *named)
        findings.append(finding_of(exchange, "correction", strength=score, matched=matched))
    elif praise.score >= ENOUGH and (complaint.score < MILD or complaint.score < praise.score / 2):
        findings.append(finding_of(exchange, "approval", strength=praise.score, matched=praise.words))
    if repeated >= (SAME_AFTER_FAILURE if failed else NEARLY_THE_SAME):
        findings.append(finding_of(exchange, "repeated_ask", strength=repeated, matched=("asked again",)))
    return findings


def finding_of(
    exchange: Exchange, kind: str, *, strength: float, matched: tuple[str, ...], claimed: str = ""
) -> Finding:
    """Return a finding about the answer of an exchange; it is negative unless the kind is `approval`.

    Args:
        exchange: The exchange.
        kind: The kind of the finding.
        strength: Its strength, which is cut to 1.
        matched: The words by which it was recognised.
        claimed: Name of the behaviour that a model assigns to it.
    """
    negative = kind != "approval"
    return Finding(
        kind=kind,
        position=exchange.position,
        strength=round(min(1.0, strength), 4),
        negative=negative,
        request=exchange.request,
        answer=exchange.answer.text,
        answer_position=exchange.answer_position,
        request_position=exchange.request_position,
        words=exchange.text,
        better=exchange.following if negative else "",
        matched=matched,
        recent=exchange.recent,
        claimed=claimed,
    )


_FILLER = frozenset(
    """a an the of to in on at for from with by and or but if is are was were be been am do does did i you he
    she it we they me my your our us this that these those there here please can could would will shall should
    tell say so just again no not yes ok okay now hello hi hey what which how who where when why kindly need
    want one question going let said asked know""".split()
)
"""Words that say nothing about whether two requests are the same."""


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of the content words of two requests.

    If a request has fewer than two content words, the result is 1 for equal texts of at least three words,
    else 0.
    """
    first, second = _content(one), _content(other)
    if min(len(first), len(second)) < 2:
        return 1.0 if plain(one) == plain(other) and len(plain(one).split()) > 2 else 0.0
    return jaccard(first, second)


def _content(text: str) -> set[str]:
    return set(re.findall(r"[\w']+", plain(text))) - _FILLER
