"""The work of kind `extract`: the signals of the turns that one conversation has so far.

Invariant: the same conversation gives the same records, so a conversation that has grown is simply read
again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx
from sqlalchemy import Connection

from agents.extractor.extract import ConversationView, extract, hints
from agents.extractor.lessons import Judging
from agents.extractor.model import over_http, read
from agents.extractor.rules import Finding
from corpus.aliases import Json, Progress
from corpus.behaviour import Behaviour
from corpus.conversation import Turn
from corpus.errors import ModelUnavailable
from store import queries
from store.ledger.db import Ledger, now
from store.ledger.records import Signal, StoredTurn
from store.queue.outcome import Outcome
from store.queue.work import Work


@dataclass(frozen=True, kw_only=True)
class ExtractorSettings:
    """The model that reads conversations beside the rules, if any."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (pydantic reads it, nothing writes it)

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

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Find the signals of a conversation and the lessons in them."""
        view = await self.ledger.read(_view, item.subject.rpartition(":")[0])
        findings, facts = await self._ask_model(view)
        records = extract(view, self.behaviours, self.judging, now(), read=findings)
        states = [record.state for record in records if isinstance(record, Signal)]
        counts = {state: states.count(state) for state in sorted(set(states))}
        return Outcome(records=records, facts={**counts, **facts})

    async def _ask_model(self, view: ConversationView) -> tuple[tuple[Finding, ...], Json]:
        """Return the findings of the configured model, and the facts about its reading to report.

        Without a model there are none. A model that does not answer costs its own findings, not those of the
        rules.
        """
        if not self.settings.url:
            return (), {}
        key = {"Authorization": f"Bearer {self.settings.api_key}"} if self.settings.api_key else {}
        async with httpx.AsyncClient(base_url=self.settings.url, headers=key, trust_env=False) as client:
            try:
                reply = await read(
                    view.turns,
                    self.behaviours,
                    over_http(client, self.settings.model),
                    hints=hints(self.behaviours, self.judging),
                )
            except ModelUnavailable as error:
                return (), {"model": str(error)}
        return reply.findings, {"dropped": list(reply.dropped)} if reply.dropped else {}


def _view(connection: Connection, conversation_id: str) -> ConversationView:
    """Return the conversation as it is in the ledger."""
    conversation = queries.conversation(connection, conversation_id)
    turns = tuple(_turn(row) for row in queries.turns(connection, conversation_id))
    return ConversationView(id=conversation_id, source=conversation.source, turns=turns)


def _turn(row: StoredTurn) -> Turn:
    """Return a stored turn as it was when it was logged."""
    return Turn(
        role=row.role,
        text=row.text,
        line=row.line,
        time=datetime.fromisoformat(row.time) if row.time else None,
        rating=row.rating,
        edited=row.edited,
        key=row.key,
    )
