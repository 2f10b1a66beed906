"""The ledger's tables, in the order in which a lesson passes through them, from a turn to a verdict.

Most tables of readings are in `schema_readings`. Invariant: rows are added and change their state, but never
their meaning. Ids are digests of content, so that a repeated night finds its own rows; a few are sequence
numbers. Times are ISO 8601 in UTC. This module knows nothing about agents or queries.
"""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    true,
)
from sqlalchemy import UniqueConstraint as Unique

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

# ---------------------------------------------------------------- conversations

files = Table(
    "files",
    metadata,
    Column("path", String, primary_key=True),
    Column("format", String, nullable=False),
    Column(
        "identity", String, nullable=False
    ),  # device:inode and digest of the first line, which reveals a rotation
    Column("offset", Integer, nullable=False),  # bytes consumed, always just after a newline
    Column("line", Integer, nullable=False),  # lines consumed
)

forgotten = Table(  # tombstones of forgotten conversations, which are not added again
    "forgotten",
    metadata,
    Column("chain", String, primary_key=True),  # chain digest of a turn, or digest of a key
    Column("at", String, nullable=False),
)

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
    # leading turns that another conversation has too, of a fork for example: their signals count there
    Column("copied", Integer, nullable=False, server_default="0"),
)

turns = Table(
    "turns",
    metadata,
    Column("id", Integer, primary_key=True),  # also the cursor: a night reads the turns up to an id
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
    Column("structure", JSON(none_as_null=True)),  # tool calls and ids; NULL if role and text are all
    Column("tools", JSON(none_as_null=True)),  # offered from this turn on; NULL for those of the turn before
    Unique("conversation_id", "position"),
    Index("turns_by_key", "key"),
)

# ---------------------------------------------------------------- the memory graph

signals = Table(
    "signals",
    metadata,
    Column("id", String, primary_key=True),
    # correction, approval, repeated_ask, rating, edit, new_constraint, changed_mind
    Column("kind", String, nullable=False),
    Column("of", String),  # what a correction is of: behaviour, task; NULL if its words do not say
    Column("found_by", String, nullable=False, server_default="rules"),  # rules, extractor, joined by +
    Column("conversation_id", ForeignKey("conversations.id"), nullable=False),
    Column("position", Integer, nullable=False),  # of the turn that carries it
    Column("source", String, nullable=False),
    Column("behaviour", String),  # the behaviour that it supports; NULL if none was recognised
    Column("strength", Float, nullable=False),  # 0 to 1
    # new -> learnt (a kept update used it) or undone (its update was rolled back); undone -> new by --retry;
    # refused: it contradicts a counter-behaviour; noted: it names no behaviour to train
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
    Column("signal_id", String, primary_key=True),  # the evidence; "" for a declared relation
)

failure_rates = Table(
    "failure_rates",
    metadata,
    Column("behaviour", String, primary_key=True),
    Column("failed", Float, nullable=False),  # discounted counts of the Beta posterior
    Column("passed", Float, nullable=False),
    Column("temperature", Float, nullable=False),  # of the next dreams
)

# ---------------------------------------------------------------- the night

nights = Table(
    "nights",
    metadata,
    Column("id", String, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("seed", Integer, nullable=False),
    Column("cursor", Integer, nullable=False),  # id of the last turn that it reads
    Column("retry", Boolean, nullable=False),
    Column("targets", JSON, nullable=False),  # the behaviours that it is to improve
    Column("state", String, nullable=False),  # running -> done
    Column("reasons", JSON, nullable=False),
    Column("started", String, nullable=False),
    Column("finished", String),
)

dreams = Table(
    "dreams",
    metadata,
    Column("id", String, primary_key=True),
    Column("night_id", ForeignKey("nights.id"), nullable=False, index=True),
    Column("behaviour", String, nullable=False),
    Column("messages", JSON, nullable=False),  # the whole conversation, up to the user's turn
    Column("tools", JSON, nullable=False, server_default="[]"),  # definitions, for the chat template
    Column("temperature", Float, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("nodes", JSON, nullable=False),  # ids of the nodes it grew from
    Column("source", String, nullable=False),  # the source of its log; the share of each source is capped
    Column(
        "form", String, nullable=False, server_default=""
    ),  # of its prompt; "" in rows of earlier versions
    Column("refused", Text),  # the reason why it is not used; NULL for a dream in use
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", String, primary_key=True),
    Column("dream_id", ForeignKey("dreams.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column(
        "instructed", Boolean, nullable=False
    ),  # with the behaviour's instruction, which is stripped later
    Column("temperature", Float, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("checkpoint_id", String, nullable=False),  # the weights that produced it
    Column("passed", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("told", String),  # the behaviour whose instruction the prompt carried; NULL without one
    Column("placement", String),  # where it carried it: system, end, hindsight; NULL without one
    Column("tokens", Integer, nullable=False, server_default="0"),  # generated; 0 in rows of older versions
    Column("finished", Boolean, nullable=False, server_default=true()),  # not cut at the limit of tokens
)

placement_trials = Table(  # where an instruction works: measured on the first dreams that fail without it
    "placement_trials",
    metadata,
    Column("night_id", ForeignKey("nights.id"), primary_key=True),
    Column("behaviour", String, primary_key=True),
    Column("model", String, nullable=False),  # digest of the model that the weights grew from
    Column("rule", String, nullable=False),  # digest of the instruction
    Column("placement", String),  # the one with the greatest lift; NULL if none lifted
    Column(
        "dreams", Integer, nullable=False
    ),  # each was answered once more alone, and once in each placement
    Column("alone", Integer, nullable=False),  # passes without the instruction
    Column("told", JSON, nullable=False),  # {placement: passes}
)

pairs = Table(
    "pairs",
    metadata,
    Column("id", String, primary_key=True),
    Column("behaviour", String, nullable=False),
    Column("messages", JSON, nullable=False),  # the whole conversation before the two answers
    Column("tools", JSON, nullable=False, server_default="[]"),  # definitions, for the chat template
    Column("chosen", Text, nullable=False),
    Column("rejected", Text, nullable=False),
    Column("chosen_from", String, nullable=False),  # attempt:ID, instructed:ID or log:CONVERSATION:POSITION
    Column("rejected_from", String, nullable=False),  # attempt:ID, overgeneralised:ID or log:...
    Column("dream_id", ForeignKey("dreams.id")),
    Column("signal_id", String),  # the signal of a pair that was made from a log, without a dream
    Column("source", String, nullable=False),
    Column("trust", Float, nullable=False),  # weight of the example, 0 to 1
    Column("checkpoint_id", String, nullable=False),  # the weights that produced the rejected answer
    Column("reference_id", String),  # checkpoint of the reference; NULL before its first update
    Column("chosen_logprob", Float),  # reference log-probabilities (nats, summed), pinned to reference_id
    Column("rejected_logprob", Float),
    # new -> used (in a kept update), undone (rolled back; -> new by --retry) or
    # over_cap (the share of its source is full)
    Column("state", String, nullable=False),
    Column("night_id", ForeignKey("nights.id"), nullable=False),
)

updates = Table(
    "updates",
    metadata,
    Column("id", String, primary_key=True),
    Column("night_id", ForeignKey("nights.id"), nullable=False, unique=True),
    Column("objective", String, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("parent_id", ForeignKey("checkpoints.id"), nullable=False),
    Column("checkpoint_id", ForeignKey("checkpoints.id")),
    Column("steps", Integer, nullable=False),
    # planned -> trained (a candidate is on disk) -> kept or undone; planned -> refused (nothing changed)
    Column("state", String, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("at", String, nullable=False),
)

update_pairs = Table(
    "update_pairs",
    metadata,
    Column("update_id", ForeignKey("updates.id"), primary_key=True),
    Column("pair_id", ForeignKey("pairs.id"), primary_key=True),
    Column("replay", Boolean, nullable=False),
    Column("unlearnt", Boolean, nullable=False, server_default=false()),  # a merge unlearnt it
)

steps = Table(
    "steps",
    metadata,
    Column("update_id", ForeignKey("updates.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("metrics", JSON, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", String, primary_key=True),  # digest of its manifest file
    Column("parent_id", String),  # NULL for checkpoint 0
    Column("number", Integer, nullable=False, unique=True),
    Column("weights_sha256", String, nullable=False),
    Column("update_id", String),
    Column("state", String, nullable=False),  # candidate -> kept or undone; checkpoint 0 starts as kept
    Column("at", String, nullable=False),
    Column("pinned", Boolean, nullable=False, server_default=false()),  # never pruned
    Column("pruned", String),  # when its files were deleted; NULL while they exist
)

pointers = Table(  # the last row names the active checkpoint: a rollback is a new row
    "pointers",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("checkpoint_id", ForeignKey("checkpoints.id"), nullable=False),
    Column("why", Text, nullable=False),
    Column("at", String, nullable=False),
)

measurements = Table(
    "measurements",
    metadata,
    Column("weights_sha256", String, primary_key=True),
    Column("behaviour", String, primary_key=True),
    Column("definition", String, primary_key=True),  # see `corpus.behaviour.definition`
    Column("seed", Integer, primary_key=True),
    Column("round", Integer, primary_key=True),  # number of the batch of scenarios, from 0
    Column("outcomes", Text, nullable=False),  # one character an answer: 1 passed, 0 failed
    Column("words", JSON(none_as_null=True)),  # {word: answers that have it}; NULL in rows of older versions
)

readings = Table(
    "readings",
    metadata,
    Column("weights_sha256", String, primary_key=True),
    Column("name", String, primary_key=True),  # a concept, or "perplexity"
    Column("vectors", String, primary_key=True),  # digest of the vectors; for the perplexity: its text's name
    Column("mean", Float, nullable=False),
    Column("spread", Float, nullable=False),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("update_id", ForeignKey("updates.id"), primary_key=True),
    Column("decision", String, nullable=False),  # keep, roll back
    Column("reasons", JSON, nullable=False),
    Column("tests", JSON, nullable=False),  # every test with its figures
    Column("at", String, nullable=False),
)

# ---------------------------------------------------------------- work and events

work = Table(
    "work",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),  # id of what the work is about
    Column("night_id", String, nullable=False),  # "" outside a night
    # ready -> leased -> done; leased -> ready (its holder died, or it failed and may try again);
    # leased -> set_aside after 3 failures; ready, leased -> withdrawn when its night is ended early
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("holder", String),  # the service that leased it
    Column("error", Text),
    Unique("kind", "subject", "night_id"),
    Index("work_by_state", "state", "id"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("body", JSON, nullable=False),
    Column("at", String, nullable=False),
)
