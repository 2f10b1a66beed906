"""The extractor's handler: one conversation, as far as it has arrived, into the memory graph.

Invariant: reading a conversation again gives the same records, so a growing one is simply read again.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from agents.extractor.extract import ConversationView, extract
from agents.extractor.lessons import Judging
from corpus.behaviour import Behaviour
from corpus.conversation import Turn
from store import schema
from store.ledger import Ledger, now
from store.outcome import Outcome
from store.records import Signal
from store.work import Work


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """Handles work of kind `extract`; the subject is CONVERSATION:TURNS."""

    ledger: Ledger
    behaviours: Mapping[str, Behaviour]
    judging: Judging

    async def handle(self, item: Work, report: Callable[[int, int], Awaitable[None]]) -> Outcome:
        """Find the signals of a conversation and what they teach."""
        view = await self.ledger.read(_view, item.subject.rpartition(":")[0])
        records = extract(view, self.behaviours, self.judging, now())
        states = [record.state for record in records if isinstance(record, Signal)]
        return Outcome(records=records, facts={state: states.count(state) for state in sorted(set(states))})


def _view(connection: Connection, conversation_id: str) -> ConversationView:
    """The conversation as it stands in the ledger."""
    t, c = schema.turns, schema.conversations
    source = connection.execute(select(c.c.source).where(c.c.id == conversation_id)).scalar_one()
    rows = connection.execute(select(t).where(t.c.conversation_id == conversation_id).order_by(t.c.position)).mappings()
    turns = tuple(
        Turn(
            role=row["role"],
            text=row["text"],
            line=row["line"],
            time=datetime.fromisoformat(row["time"]) if row["time"] else None,
            rating=row["rating"],
            edited=row["edited"],
            key=row["key"],
        )
        for row in rows
    )
    return ConversationView(id=conversation_id, source=source, turns=turns)
