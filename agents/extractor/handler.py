"""The extractor's handler: one conversation, as far as it has arrived, into the memory graph.

Invariant: reading a conversation again gives the same records, so a growing one is simply read again.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from sqlalchemy import Connection, select

from agents.extractor.extract import ConversationView, extract, hints
from agents.extractor.lessons import Judging
from agents.extractor.model import over_http, read
from agents.extractor.rules import Finding
from corpus.behaviour import Behaviour
from corpus.conversation import Turn
from corpus.errors import ModelUnavailable
from store.ledger import schema
from store.ledger.db import Ledger, now
from store.ledger.records import Signal
from store.queue.outcome import Outcome
from store.queue.work import Work


@dataclass(frozen=True, kw_only=True)
class ExtractorSettings:
    """A model that reads conversations beside the rules."""

    __pydantic_config__ = {"extra": "forbid"}

    url: str = ""
    """OpenAI-compatible server that follows a JSON schema and reads conversations beside the rules; empty
    for rules alone."""
    model: str = ""
    """The model's name on that server."""
    api_key: str = ""
    """Key that is sent to that server as a bearer token."""


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """Handles work of kind `extract`; the subject is CONVERSATION:TURNS."""

    ledger: Ledger
    behaviours: Mapping[str, Behaviour]
    judging: Judging
    settings: ExtractorSettings = ExtractorSettings()

    async def handle(self, item: Work, report: Callable[[int, int], Awaitable[None]]) -> Outcome:
        """Find the signals of a conversation and what they teach."""
        view = await self.ledger.read(_view, item.subject.rpartition(":")[0])
        reading, told = await self._read(view)
        records = extract(view, self.behaviours, self.judging, now(), read=reading)
        states = [record.state for record in records if isinstance(record, Signal)]
        counts = {state: states.count(state) for state in sorted(set(states))}
        return Outcome(records=records, facts={**counts, **told})

    async def _read(self, view: ConversationView) -> tuple[tuple[Finding, ...], dict[str, Any]]:
        """What the configured model finds, and what is to be told of that; nothing where there is none.

        A model that does not answer costs its findings, not the rules'.
        """
        if not self.settings.url:
            return (), {}
        key = {"Authorization": f"Bearer {self.settings.api_key}"} if self.settings.api_key else {}
        async with httpx.AsyncClient(base_url=self.settings.url, headers=key, trust_env=False) as client:
            try:
                reading = await read(
                    view.turns,
                    self.behaviours,
                    over_http(client, self.settings.model),
                    hints=hints(self.behaviours, self.judging),
                )
            except ModelUnavailable as error:
                return (), {"model": str(error)}
        return reading.findings, {"dropped": list(reading.dropped)} if reading.dropped else {}


def _view(connection: Connection, conversation_id: str) -> ConversationView:
    """The conversation as it stands in the ledger."""
    t, c = schema.turns, schema.conversations
    source = connection.execute(select(c.c.source).where(c.c.id == conversation_id)).scalar_one()
    rows = connection.execute(
        select(t).where(t.c.conversation_id == conversation_id).order_by(t.c.position)
    ).mappings()
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
