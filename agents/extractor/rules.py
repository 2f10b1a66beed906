"""Find signals by rules that need no model: corrections, repeated asks, approvals, ratings, edits.

Invariant: pure. A finding depends only on the turns up to its own turn and on the answer that follows it, so
a conversation that grows keeps its findings. Log text is data and never an instruction. This module knows
nothing about behaviours: it asks the judges through `Hints`, and `lessons` decides what a finding teaches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from agents.extractor.cues import ENOUGH, Reading, holds_back, mentioned, plain, read
from agents.extractor.repeats import similarity
from corpus.conversation import Turn

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
INSISTED_AGAIN = 0.4
"""Used instead of NEARLY_THE_SAME if the turn begins as one that asks once more ("ok but ...")."""
WORDY = 2.0
"""How many times longer an earlier part of an answer is than the last, if the turn is about the earlier."""
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
    """One of correction, repeated_ask, approval, rating, edit, new_constraint and changed_mind."""
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
    of: str | None = None
    """What a correction is of: `behaviour` (how the assistant answers), `task` (what came out), or None if
    its words do not say."""
    found_by: str = "rules"
    """The evidence: `rules`, `extractor` (the configured model), or both, joined by a plus sign."""
    held_back: str = ""
    """How the answer held back: `refuses` or warns, or `asks back`; "" if it did not."""


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
    answers: list[tuple[int, Turn]] = field(default_factory=list)
    """The parts of the answer since the user's last turn, each with its index."""
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
        self.answers.clear()

    def answer(self) -> tuple[int, Turn]:
        """Return the part of the answer that the next user's turn is about, with its index.

        It is the last part, or an earlier one that is much longer and consists of words: an agent may add
        "Saved." to what it has written.
        """
        last = self.answers[-1]
        wordy = [part for part in self.answers if not calls(part[1])]
        longest = max(wordy, key=lambda part: len(part[1].text), default=last)
        return longest if len(longest[1].text) >= WORDY * len(last[1].text) and last in wordy else last


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
            dialogue.answers.append((position, turn))
            yield None, _marked_answer(dialogue, turn, position)
        elif turn.role == "user" and turn.text.strip():
            exchange = _exchange(turns, position, dialogue)
            findings = _by_words(exchange, hints) if exchange else []
            yield exchange, findings
            dialogue.add(turn.text, position, carries_on=any(finding.negative for finding in findings))


def _exchange(turns: Sequence[Turn], position: int, dialogue: _Dialogue) -> Exchange | None:
    """Return the exchange of the user's turn at `position`; None if no answered request comes before it."""
    if not dialogue.answers or not dialogue.request:
        return None
    answer_position, answer = dialogue.answer()
    return Exchange(
        position=position,
        text=turns[position].text,
        request=dialogue.request,
        answer=answer,
        answer_position=answer_position,
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
    """Return the findings in a user's turn.

    There is at most one correction, approval, changed mind or new constraint, or praise with one of the last
    two, and at most one repeated ask. A complaint after an answer that refuses or warns insists: it is a
    repeated ask.
    """
    answer = exchange.answer.text
    failed = hints.failed(exchange.request, answer)
    reading = read(exchange.text, request=exchange.request, answer=answer, failed=failed)
    findings = _wishes(exchange, reading)
    if (complaint := _complaint(exchange, hints, reading, failed=failed)) is not None:
        findings = [complaint]
    repeated = similarity(exchange.request, exchange.text)
    least = INSISTED_AGAIN if reading.again else SAME_AFTER_FAILURE if failed else NEARLY_THE_SAME
    if repeated >= least:
        findings.append(finding_of(exchange, "repeated_ask", strength=repeated, matched=("asked again",)))
    if not findings:
        return []
    held = holds_back(answer, request=exchange.request)
    if held == "refuses":
        findings = _insisting(findings)
    return [replace(finding, held_back=held) for finding in findings]


def _complaint(exchange: Exchange, hints: Hints, reading: Reading, *, failed: bool) -> Finding | None:
    """Return the correction in a user's turn; None if the turn corrects nothing.

    Args:
        exchange: The exchange.
        hints: The behaviours' tests and cue words.
        reading: The reading of the turn's words.
        failed: Whether the answer fails a behaviour's judge.
    """
    named = mentioned(hints.cues, exchange.text)
    score = reading.complaint + FAILED_ANSWER * failed + NAMED_CUE * bool(named)
    if hints.is_request(exchange.text) and not reading.complaint >= ENOUGH:
        score -= NEW_REQUEST
    praised = reading.approval > max(reading.complaint, MILD)
    if score < ENOUGH or not (reading.complaint > 0 or named) or praised:
        return None
    if reading.changed >= ENOUGH and reading.changed >= reading.complaint and not failed:
        return None
    matched = (*reading.against, *named)
    found = finding_of(exchange, "correction", strength=score, matched=matched)
    return replace(found, of="behaviour" if named else reading.of)


def _wishes(exchange: Exchange, reading: Reading) -> list[Finding]:
    """Return the findings of a turn that is no complaint: praise, a changed mind, a new constraint."""
    findings, complaint = list[Finding](), reading.complaint
    if reading.approval >= ENOUGH and (complaint < MILD or complaint < reading.approval / 2):
        findings.append(finding_of(exchange, "approval", strength=reading.approval, matched=reading.praise))
    if reading.changed >= ENOUGH:
        findings.append(finding_of(exchange, "changed_mind", strength=reading.changed, matched=reading.added))
    elif reading.constraint >= ENOUGH:
        findings.append(
            finding_of(exchange, "new_constraint", strength=reading.constraint, matched=reading.added)
        )
    return findings


def _insisting(findings: list[Finding]) -> list[Finding]:
    """Return the findings after an answer that refuses or warns, with complaints as one repeated ask."""
    complaints = [finding for finding in findings if finding.negative]
    if not complaints:
        return findings
    strongest = max(complaints, key=lambda finding: finding.strength)
    matched = tuple(word for finding in complaints for word in finding.matched)
    insists = replace(strongest, kind="repeated_ask", of=None, matched=(*matched, "insists after a refusal"))
    return [*(finding for finding in findings if not finding.negative), insists]


def finding_of(
    exchange: Exchange, kind: str, *, strength: float, matched: tuple[str, ...], claimed: str = ""
) -> Finding:
    """Return a finding about the answer of an exchange; only complaints are negative.

    Args:
        exchange: The exchange.
        kind: The kind of the finding.
        strength: Its strength, which is cut to 1.
        matched: The words by which it was recognised.
        claimed: Name of the behaviour that a model assigns to it.
    """
    negative = kind in COMPLAINTS
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
