"""The handler of work of kind `extract`, which finds the signals of one conversation.

Invariant: the same turns give the same records. So a conversation that has grown is read again as a whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
from sqlalchemy import Connection

from agents.extractor.extract import ConversationView, extract, hints
from agents.extractor.lessons import Judging
from agents.extractor.model import over_http, read
from agents.extractor.rules import Finding
from agents.model.context import ContextSettings
from corpus.aliases import Json, Progress
from corpus.behaviour import Behaviour
from corpus.errors import ModelUnavailable
from store import queries
from store.conversations.rows import turn_of
from store.ledger.db import Ledger, now
from store.ledger.records import Signal
from store.queue.outcome import Outcome
from store.queue.work import Work


@dataclass(frozen=True, kw_only=True)
class ExtractorSettings:
    """The optional model that reads conversations in addition to the rules."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (pydantic reads it, nothing writes it)

    url: str = ""
    """Address of an OpenAI-compatible server whose model reads conversations too, in addition to the built-in
    rules. The server must support JSON schemas. Empty for the rules alone."""
    model: str = ""
    """Name of the model on the server of `extractor.url`."""
    api_key: str = ""
    """Key that is sent to the server of `extractor.url` as a bearer token; empty for none."""


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """The handler of work of kind `extract`.

    The subject of such work is the conversation's id, a colon and its number of turns.
    """

    ledger: Ledger
    behaviours: Mapping[str, Behaviour]
    judging: Judging
    settings: ExtractorSettings = ExtractorSettings()
    context: ContextSettings = field(default_factory=ContextSettings)

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return the outcome of the work: a conversation's records, and how many signals have each state."""
        view = await self.ledger.read(_view, item.subject.rpartition(":")[0], self.context.characters)
        findings, facts = await self._ask_model(view)
        records = extract(view, self.behaviours, self.judging, now(), read=findings)
        states = [record.state for record in records if isinstance(record, Signal)]
        counts = {state: states.count(state) for state in sorted(set(states))}
        return Outcome(records=records, facts={**counts, **facts})

    async def _ask_model(self, view: ConversationView) -> tuple[tuple[Finding, ...], Json]:
        """Return the findings of the configured model, and facts about its replies for the work's outcome.

        Both are empty if no model is configured. If the model does not answer, there are no findings, and the
        facts contain the error.
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


def _view(connection: Connection, conversation_id: str, most_characters: int) -> ConversationView:
    """Return the conversation with this id, with the turns that the ledger has now."""
    conversation = queries.conversation(connection, conversation_id)
    turns = tuple(turn_of(row) for row in queries.turns(connection, conversation_id))
    return ConversationView(
        id=conversation_id,
        source=conversation.source,
        turns=turns,
        most_characters=most_characters,
        copied=conversation.copied,
    )
