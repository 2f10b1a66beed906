"""Bring the proposals up to date with the complaints in the ledger, and describe them.

Invariant: a complaint is read once. The ledger stores which complaints a proposal rests on. Everything else
about a proposal is computed from these complaints and from the present behaviours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from agents.extractor.cues import holds_back
from agents.extractor.extract import declared
from agents.extractor.harm import destructive, instructs
from agents.proposer import weigh
from agents.proposer.draft import Draft, draft
from agents.proposer.gather import gather
from corpus.behaviour import Behaviour
from corpus.checks.catalogue import refusal
from corpus.checks.complaints import completed
from corpus.checks.length import words
from loop.config import Settings
from loop.lessons.results import Cost, Lesson, Quote
from store import proposals
from store.ledger import schema
from store.ledger.records import Night
from store.ledger.rows import all_of
from store.nights.cost import scenario_tokens, tokens_of
from store.proposals import ACCEPTED, LATER, OPEN, REJECTED, Complaint, Evidence, ProposalRow

REOPENS = 2
"""Conversations of new evidence after which a rejected proposal is shown again."""
ANSWERS = 3
"""Usual number of answers to one dream."""
USUAL_TOKENS = 100.0
"""Tokens of an answer of a model that was never measured."""
MOST_QUOTES = 12
QUOTED = 300
"""Most characters of a quotation."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A proposal with its complaints, and the file that it would become."""

    row: ProposalRow
    complaints: tuple[Complaint, ...]
    parameters: dict[str, Any]
    draft: Draft | None
    """None if no check fits, or if no answer says what a parameter should be."""


def refresh(connection: Connection, behaviours: Mapping[str, Behaviour]) -> None:
    """Add the complaints that are new since the last call to the proposals.

    A complaint about a proposal that was accepted becomes a lesson of its behaviour. A rejected one opens
    again when REOPENS further conversations complain.
    """
    new = proposals.complaints(connection, known=False)
    before = {row.key: row for row in proposals.rows(connection)}
    for one in gather(new, before, lambda text: instructs(text) or destructive(text), _refuses):
        proposals.add(connection, one.key, one.rule, [(one.signal_id, one.parameters)])
    for proposal in assembled(connection, behaviours):
        row = proposal.row
        fresh = [one for one in proposal.complaints if one.signal_id not in row.seen]
        name = row.behaviour or ""
        if row.state == ACCEPTED and fresh and name in behaviours:
            teach(connection, name, behaviours, fresh)
            proposals.decide(connection, row.number, ACCEPTED)
        again = len({one.conversation_id for one in fresh})
        if (row.state == LATER and again) or (row.state == REJECTED and again >= REOPENS):
            proposals.decide(connection, row.number, OPEN, reason="")


def _refuses(complaint: Complaint) -> bool:
    """Return whether a complaint is about an answer that refuses or warns."""
    return holds_back(complaint.answer, request=complaint.request) == "refuses"


def teach(
    connection: Connection, name: str, behaviours: Mapping[str, Behaviour], found: Sequence[Complaint]
) -> int:
    """Make lessons for a behaviour of these complaints; return their number."""
    own = {one: each for one, each in behaviours.items() if name in (one, each.counter_of)}
    return proposals.teach(connection, name, declared(own), found)


def assembled(connection: Connection, behaviours: Mapping[str, Behaviour]) -> list[Proposal]:
    """Return every proposal with its complaints, sorted by number."""
    complaints = {one.signal_id: one for one in proposals.complaints(connection, known=True)}
    order = {signal: place for place, signal in enumerate(complaints)}
    evidence = {
        number: sorted(
            (one for one in rests_on if one.signal_id in order), key=lambda one: order[one.signal_id]
        )
        for number, rests_on in proposals.evidence_of(connection).items()
    }
    return [
        _assembled(row, evidence.get(row.number, []), complaints, behaviours)
        for row in proposals.rows(connection)
    ]


def _assembled(
    row: ProposalRow,
    evidence: Sequence[Evidence],
    complaints: Mapping[str, Complaint],
    behaviours: Mapping[str, Behaviour],
) -> Proposal:
    found = tuple(complaints[one.signal_id] for one in evidence)
    if not row.rule or not found:
        return Proposal(row=row, complaints=found, parameters={}, draft=None)
    read = [{key: _untupled(value) for key, value in one.parameters.items()} for one in evidence]
    lengths = [(len(words(one.answer)), len(words(one.following))) for one in found]
    parameters = completed(row.rule, read, lengths)
    if refusal(row.rule, parameters, {}):  # only complaints are left that were merged into it
        return Proposal(row=row, complaints=found, parameters={}, draft=None)
    why = (
        f"Proposed from {_many(len(found), 'complaint')} of {_people(found)}: "
        f"`nightschool lessons show {row.number}` has them."
    )
    return Proposal(
        row=row,
        complaints=found,
        parameters=parameters,
        draft=draft(row.rule, parameters, taken=behaviours.keys(), why=why),
    )


def described(
    connection: Connection, behaviours: Mapping[str, Behaviour], settings: Settings
) -> list[Lesson]:
    """Return every proposal as a person sees it, sorted by number."""
    all_ = assembled(connection, behaviours)
    cost = _cost(connection, settings)
    return [_lesson(one, all_, behaviours, cost) for one in all_]


def _lesson(
    proposal: Proposal, all_: Sequence[Proposal], behaviours: Mapping[str, Behaviour], cost: Cost
) -> Lesson:
    row, found, drafted = proposal.row, proposal.complaints, proposal.draft
    rule = drafted.rule if drafted else None
    judge = "no check of the catalogue fits, and no judge is configured: it cannot be judged"
    if rule:
        said = ", ".join(f"{key} {_said(value)}" for key, value in rule.rule.parameters.items())
        judge = f"the check {rule.rule.check}" + (f" ({said})" if said else "")
    return Lesson(
        number=row.number,
        state=row.state,
        condition=rule.rule.condition if rule else "something like what these complaints are about",
        do=rule.rule.do if rule else f"what these complaints ask for: {_quoted(found)}",
        judge=judge,
        judged=rule is not None,
        check=row.rule,
        parameters=proposal.parameters,
        counter=f"{rule.counter.condition}: {rule.counter.do}" if rule else "",
        sure=weigh.sure(found, checked=rule is not None),
        conversations=len({one.conversation_id for one in found}),
        people=len({one.source for one in found}),
        cost=cost if rule else None,
        contradicts=_contradicted(proposal, all_, behaviours) if rule else [],
        taught=weigh.same(row.rule, proposal.parameters, behaviours) if rule else [],
        behaviour=row.behaviour,
        reason=row.reason,
        quotes=[
            Quote(
                source=one.source,
                path=one.path,
                line=one.line,
                words=one.words[:QUOTED],
                answer=one.answer[:QUOTED],
            )
            for one in found[:MOST_QUOTES]
        ],
        draft=drafted.text if drafted else "",
    )


def _contradicted(
    proposal: Proposal, all_: Sequence[Proposal], behaviours: Mapping[str, Behaviour]
) -> list[str]:
    """Return what asks for the opposite of a proposal, in words."""
    names = weigh.contradicted(proposal.row.rule, proposal.parameters, behaviours)
    others = [
        f"proposal {other.row.number} of {_people(other.complaints)}"
        for other in all_
        if other.row.state in (OPEN, LATER)
        and other.draft is not None
        and weigh.opposed(proposal.row.rule, proposal.parameters, other.row.rule, other.parameters)
    ]
    return [*(f"behaviour {name}" for name in names), *others]


def _cost(connection: Connection, settings: Settings) -> Cost:
    """Return what a night that teaches one behaviour costs: dreams, answers to them, and the measurements."""
    answer = scenario_tokens(connection, USUAL_TOKENS)
    dreams = settings.dreams.per_behaviour * (1 + settings.dreams.counter_share)
    measured = 2 * 2 * settings.verdict.scenarios  # two sides, before and after
    tokens = round(dreams * (settings.dreams.max_tokens + ANSWERS * answer) + measured * answer)
    pace = _pace(connection)
    return Cost(tokens=tokens, minutes=round(tokens / pace, 1) if pace else None)


def _pace(connection: Connection) -> float:
    """Return the tokens that earlier nights generated in a minute, their training included; 0 if unknown."""
    tokens, minutes = 0, 0.0
    n = schema.nights
    for night in all_of(connection, Night, select(n).where(n.c.finished.is_not(None))):
        spent = tokens_of(connection, night.id).generated
        if spent and night.finished:
            took = datetime.fromisoformat(night.finished) - datetime.fromisoformat(night.started)
            tokens, minutes = tokens + spent, minutes + took.total_seconds() / 60
    return tokens / minutes if minutes > 0 else 0.0


def _people(found: Sequence[Complaint]) -> str:
    return _many(len({one.source for one in found}), "person", "people")


def _quoted(found: Sequence[Complaint]) -> str:
    return f'"{found[0].words[:80]}"' if found else "nothing that is still known"


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _untupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"
