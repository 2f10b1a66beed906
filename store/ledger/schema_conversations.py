"""The first of the ledger's tables: what was heard, and what was learnt from it. The rest is in `schema.py`.

Invariant: as there.
"""

from sqlalchemy import JSON, Column, Float, ForeignKey, Integer, MetaData, String, Table, Text
from sqlalchemy import UniqueConstraint as Unique

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

# ---------------------------------------------------------------- what was heard

files = Table(
    "files",
    metadata,
    Column("path", String, primary_key=True),
    Column("format", String, nullable=False),
    Column("identity", String, nullable=False),  # device:inode and digest of the first line: tells a rotation
    Column("offset", Integer, nullable=False),  # bytes consumed, always just after a newline
    Column("line", Integer, nullable=False),  # lines consumed
)

gone = Column("chain", String, primary_key=True)  # chain digest of a turn that a user had removed
forgotten = Table(
    "forgotten", metadata, gone, Column("at", String, nullable=False)
)  # it is not taken in again

set_aside_lines = Table(
    "set_aside_lines",
    metadata,
    Column("path", String, primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", String, nullable=False),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", String, primary_key=True),  # chain digest when first seen, 16 hex characters
    Column("source", String, nullable=False, index=True),
    Column("format", String, nullable=False),
    Column("key", String, nullable=False, index=True),  # the log's own id, or ""
    Column("tail", String, nullable=False, unique=True),  # chain digest of all its turns
    Column("path", String, nullable=False),
    Column("at", String, nullable=False),
)

turns = Table(
    "turns",
    metadata,
    Column("id", Integer, primary_key=True),  # also the cursor: a night hears the turns up to one id
    Column("conversation_id", ForeignKey("conversations.id"), nullable=False),
    Column("position", Integer, nullable=False),  # from 0
    Column("role", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("time", String),
    Column("rating", Float),
    Column("edited", Text),
    Column("path", String, nullable=False),
    Column("line", Integer, nullable=False),
    Column("chain", String, nullable=False, index=True),
    Column("key", String, nullable=False),
    Unique("conversation_id", "position"),
)

# ---------------------------------------------------------------- what was learnt from it

signals = Table(
    "signals",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),  # correction, approval, repeated_ask, rating, edit
    Column("conversation_id", ForeignKey("conversations.id"), nullable=False),
    Column("position", Integer, nullable=False),  # of the turn that carries it
    Column("source", String, nullable=False),
    Column("behaviour", String),  # the behaviour it supports, if one was recognised
    Column("strength", Float, nullable=False),  # 0 to 1
    # new -> learnt (a kept update used it) or undone (its update was rolled back); undone -> new by --retry;
    # refused: it argues against a guarding behaviour; noted: it names no behaviour to train
    Column("state", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("night_id", String),  # the night that took it up
    Column("at", String, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),  # behaviour, episode, fact, feeling
    Column("name", String, nullable=False),
    Column("body", JSON, nullable=False),
    Column("feelings", JSON, nullable=False),  # {feeling: score 0 to 1}
    Column("weight", Float, nullable=False),
    Unique("kind", "name"),
)

edges = Table(
    "edges",
    metadata,
    Column("kind", String, primary_key=True),  # shows, supports, contradicts, guards, about
    Column("tail_id", ForeignKey("nodes.id"), primary_key=True),
    Column("head_id", ForeignKey("nodes.id"), primary_key=True),
    Column("signal_id", String, primary_key=True),  # the evidence; "" for what was declared
)

failure_rates = Table(
    "failure_rates",
    metadata,
    Column("behaviour", String, primary_key=True),
    Column("failed", Float, nullable=False),  # discounted counts of the Beta posterior
    Column("passed", Float, nullable=False),
    Column("temperature", Float, nullable=False),  # of the next dreams
)
