"""Many conversations in few statements: a batch of a log in the ledger.

Invariant: a batch leaves the same rows in the same order, with the same ids, as its conversations added one
after the other by `conversations.add`. A conversation whose turns arrive one by one, and one whose tools have
to be compared with stored ones, is added by `conversations.add` itself, after the rows before it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, select

from corpus.conversation import Conversation
from corpus.scrub.patterns import scrub_conversation
from store.conversations.conversations import ID_LENGTH, Added, add_scrubbed, digests_of
from store.conversations.privacy import cleaner
from store.conversations.rows import ConversationRow, TurnRow, conversation_row, turn_row, with_new_tools
from store.ledger import schema
from store.ledger.rows import parts
from store.queue.work import enqueue_all

_TURNS, _WHOLE, _GONE = schema.turns.c, schema.conversations.c, schema.forgotten.c
_WANTED: BindParameter[Any] = bindparam("wanted", expanding=True)
_KNOWN = select(_TURNS.chain, _TURNS.conversation_id).where(_TURNS.chain.in_(_WANTED)).order_by(_TURNS.id)
_TAILS = select(_WHOLE.id, _WHOLE.tail).where(_WHOLE.tail.in_(_WANTED))
_FORGOTTEN = select(_GONE.chain).where(_GONE.chain.in_(_WANTED))
_ANY_FORGOTTEN = select(_GONE.chain).limit(1)
"""Made once: building them would take longer than their rows."""


@dataclass(kw_only=True)
class _Rows:
    """What a batch has looked up, and what it has not written yet."""

    connection: Connection
    path: str
    known: dict[str, str] = field(default_factory=dict)
    """Digest of a stored turn's prefix to its conversation, of those that were looked up."""
    tails: dict[str, str] = field(default_factory=dict)
    """Digest of a whole stored conversation to its id, of those that were looked up."""
    forgotten: set[str] = field(default_factory=set)
    conversations: dict[str, ConversationRow] = field(default_factory=dict)
    """New rows by id."""
    turns: list[TurnRow] = field(default_factory=list)
    grown: dict[str, str] = field(default_factory=dict)
    """New tail of each stored conversation that grew."""
    work: list[str] = field(default_factory=list)

    def look_up(self, digests: Sequence[list[str]]) -> None:
        """Look up what the ledger has of these conversations, given the digests of all their prefixes."""
        run = self.connection.execute
        for part in parts([each[-1] for each in digests]):
            for chain, conversation_id in run(_KNOWN, {"wanted": part}):
                self.known.setdefault(chain, conversation_id)
        forgot = run(_ANY_FORGOTTEN).first() is not None
        for part in parts(list({digest for each in digests for digest in each})):
            for id, tail in run(_TAILS, {"wanted": part}):
                self.tails.setdefault(tail, id)
            if forgot:
                self.forgotten.update(chain for (chain,) in run(_FORGOTTEN, {"wanted": part}))

    def write(self) -> None:
        """Write all rows that were not written yet."""
        if self.conversations:
            self.connection.execute(schema.conversations.insert(), list(self.conversations.values()))
        if self.grown:
            table = schema.conversations
            update = table.update().where(table.c.id == bindparam("its")).values(tail=bindparam("new"))
            self.connection.execute(update, [{"its": id, "new": tail} for id, tail in self.grown.items()])
        if self.turns:
            self.connection.execute(schema.turns.insert(), self.turns)
        enqueue_all(self.connection, "extract", self.work)
        self.conversations, self.turns, self.grown, self.work = {}, [], {}, []

    def add(self, conversation: Conversation, digests: list[str]) -> Added | None:
        """Add one conversation without a key; None if only `conversations.add` can."""
        known = self.known.get(digests[-1])
        if known is not None:
            return Added(conversation_id=known, new_turns=0, known=True)
        if self.forgotten and not self.forgotten.isdisjoint(digests):
            return Added(conversation_id="", new_turns=0, known=False, forgotten=True)
        start = next((n for n in range(len(digests), 0, -1) if digests[n - 1] in self.tails), 0)
        if start:
            conversation_id = self.tails.pop(digests[start - 1])
            if any(turn.tools is not None for turn in conversation.turns):
                return None
            if conversation_id in self.conversations:
                self.conversations[conversation_id]["tail"] = digests[-1]
            else:
                self.grown[conversation_id] = digests[-1]
        else:
            conversation_id = digests[-1][:ID_LENGTH]
            row = conversation_row(conversation, conversation_id, digests[-1], self.path)
            self.conversations[conversation_id] = row
        self._append(conversation, conversation_id, start, digests)
        return Added(conversation_id=conversation_id, new_turns=len(digests) - start, known=bool(start))

    def stored(self, digests: list[str], its_id: str) -> None:
        """Note that a conversation has all these prefixes now, and ends with the last one."""
        for chain in digests:
            self.known.setdefault(chain, its_id)
        self.tails[digests[-1]] = its_id

    def _append(
        self, conversation: Conversation, conversation_id: str, start: int, digests: list[str]
    ) -> None:
        """Add the turns from this position on."""
        turns = with_new_tools((), conversation.turns[start:])
        for position, turn in enumerate(turns, start=start):
            chain = digests[position]
            self.turns.append(turn_row(turn, conversation_id, position, chain, self.path))
        self.stored(digests, conversation_id)
        self.work.append(f"{conversation_id}:{len(digests)}")


def add_all(connection: Connection, conversations: Iterable[Conversation], path: str) -> list[Added]:
    """Add those turns of these conversations that the ledger does not have yet; return what was added.

    Args:
        connection: The ledger, in a transaction that writes.
        conversations: The conversations as their reader returned them; secrets are removed here.
        path: Path of their log, from which secrets were removed already.
    """
    clean = cleaner(connection)
    scrubbed = [scrub_conversation(conversation, clean) for conversation in conversations]
    digests = [[] if conversation.key else digests_of(conversation) for conversation in scrubbed]
    rows = _Rows(connection=connection, path=path)
    rows.look_up([each for each in digests if each])
    found: list[Added] = []
    for conversation, own in zip(scrubbed, digests, strict=True):
        added = rows.add(conversation, own) if own else None
        if added is None:
            rows.write()
            added = add_scrubbed(connection, conversation, path)
            if own:
                rows.stored(own, added.conversation_id)
        found.append(added)
    rows.write()
    return found
