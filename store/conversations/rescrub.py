"""Stored text is scrubbed again when the rules have grown, or when the home begins to mask personal data.

Invariant: a step is one transaction over a bounded number of rows, and the ledger says where the next one
begins, so that a process may end at any time. After the last step, the ledger names the rules by which its
texts were scrubbed. A conversation whose texts change keeps its id, and is still recognised in its log.
"""

import json
from typing import Any

from sqlalchemy import Column, Connection, Table, select

from corpus.conversation import Turn, chain
from corpus.scrub.patterns import Clean, each_text
from store.conversations.privacy import SCRUBBED, cleaner, rules
from store.ledger import meta, schema

PLACE = "scrub_place"
"""Key in `meta`: of where the next step begins."""
ROWS = 100
"""Rows of one step; a conversation counts as one."""
TEXTS: tuple[tuple[Table, tuple[str, ...]], ...] = (
    (schema.conversations, ("source", "key")),
    (schema.nodes, ("body",)),
    (schema.dreams, ("messages", "source")),
    (schema.attempts, ("text", "reason")),
    (schema.pairs, ("messages", "chosen", "rejected", "source")),
    (schema.signals, ("reason", "source")),
)
"""The tables with people's words, and the columns that hold them. Turns go with their conversation."""


def is_due(connection: Connection) -> bool:
    """Return whether there is stored text that was scrubbed by other rules."""
    if meta.get(connection, SCRUBBED) == rules(connection):
        return False
    return connection.execute(select(schema.conversations.c.id).limit(1)).first() is not None


def step(connection: Connection) -> bool:
    """Scrub the next rows again, in a transaction that writes; return whether more are left."""
    wanted, clean = rules(connection), cleaner(connection)
    place = json.loads(meta.get(connection, PLACE) or "null")
    number, after = (place[1], place[2]) if place and place[0] == wanted else (0, "")
    if number < len(TEXTS):
        table, columns = TEXTS[number]
        query = select(table).where(table.c.id > after).order_by(table.c.id).limit(ROWS)
        rows = list(connection.execute(query).mappings())
        for row in rows:
            _scrub_row(connection, table, columns, row, clean)
        place = [wanted, number, rows[-1]["id"]] if len(rows) == ROWS else [wanted, number + 1, ""]
        meta.put(connection, PLACE, json.dumps(place))
        return True
    meta.put(connection, SCRUBBED, wanted)
    return False


def _scrub_row(
    connection: Connection, table: Table, columns: tuple[str, ...], row: Any, clean: Clean
) -> None:
    """Scrub the texts of one row, and of a conversation's turns."""
    if table is schema.conversations:
        _scrub_turns(connection, row, clean)
    _write(connection, table.c.id, row, {name: each_text(row[name], clean) for name in columns})


def _scrub_turns(connection: Connection, row: Any, clean: Clean) -> None:
    """Scrub the turns of a conversation, and chain their digests anew if a text has changed."""
    t = schema.turns
    query = select(t).where(t.c.conversation_id == row["id"]).order_by(t.c.position)
    turns = list(connection.execute(query).mappings())
    columns = ("text", "edited", "structure", "tools", "key")
    changed = [{name: each_text(turn[name], clean) for name in columns} for turn in turns]
    chained = _chained(row, turns, [one["text"] for one in changed], clean)
    for turn, values, digest in zip(turns, changed, chained, strict=True):
        _write(connection, t.c.id, turn, {**values, "chain": digest})
    c = schema.conversations.c
    taken = select(c.id).where(c.tail == chained[-1]).limit(1) if chained else None
    if taken is not None and connection.execute(taken).first() is None:
        _write(connection, c.id, row, {"tail": chained[-1]})


def _chained(row: Any, turns: list[Any], texts: list[str], clean: Clean) -> list[str]:
    """Return the digests of the turns with these texts; the present ones if it is not known what they are of.

    What a conversation's digests begin with is not stored (`conversations.digests_of`, `_root`). It is one of
    a few things, and the one that gives the stored digests of the texts as they are.
    """
    roles, before = [turn["role"] for turn in turns], [turn["chain"] for turn in turns]
    known = [turn["text"] for turn in turns]
    then = _roots(row["format"], row["source"], row["key"])
    now = _roots(row["format"], clean(row["source"]), clean(row["key"]))
    for old, new in zip(then, now, strict=True):
        if _digests(*old, roles, known) == before:
            return _digests(*new, roles, texts)
    return before


def _roots(format: str, source: str, key: str) -> list[tuple[str, bool]]:
    """Return what the digests may begin with, and whether the texts of system turns count in them."""
    return [
        root
        for name in (source, "")
        for root in ((name, True), (f"{name}\0{key}", False), (f"{format}\0{name}\0{key}", True))
    ]


def _digests(root: str, counts_system: bool, roles: list[str], texts: list[str]) -> list[str]:
    """Return the digests of turns with these roles and texts."""
    spoken = zip(roles, texts, strict=True)
    turns = (
        Turn(role=role, text=text if counts_system or role != "system" else "", line=0)
        for role, text in spoken
    )
    return chain(root, tuple(turns))


def _write(connection: Connection, key: Column[Any], row: Any, values: dict[str, Any]) -> None:
    """Write the values that differ from the row's."""
    changed = {name: value for name, value in values.items() if value != row[name]}
    if changed:
        connection.execute(key.table.update().where(key == row["id"]).values(**changed))
