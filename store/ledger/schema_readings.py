"""The ledger's tables of readings, sweeps and predictions; the table `readings` itself is in `schema`.

Invariant: as in `schema`. A row has the scores of all concepts in one list, in the order of
`vector_versions.concepts`, so that a conversation of a thousand turns is a thousand rows, whatever the number
of concepts.
"""

from sqlalchemy import JSON, Column, Float, ForeignKey, Integer, LargeBinary, String, Table, Text

from store.ledger.schema import metadata

vector_versions = Table(
    "vector_versions",
    metadata,
    Column("digest", String, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),  # from 1, in the order of first use
    Column("weights_sha256", String, nullable=False),  # the weights that they were estimated on
    Column("layer", Integer, nullable=False),  # the layer after which the vectors are read
    Column("concepts", JSON, nullable=False),
    Column("corpus_sha256", String, nullable=False),
    Column("method", String),  # NULL if it was not noted
    Column(
        "night_id", String, nullable=False
    ),  # the night that used them first; for vectors made by hand the last night before
    Column("cosines", JSON),  # {concept: cosine with the version before}; NULL if they cannot be compared
    Column(
        "data", LargeBinary
    ),  # float32, (concepts, hidden size), for the next cosines; NULL except in the last version
    Column("at", String, nullable=False),
)

turn_readings = Table(
    "turn_readings",
    metadata,
    Column("turn_id", ForeignKey("turns.id"), primary_key=True),
    Column("vectors", String, primary_key=True),  # digest of the vectors that it was read with
    Column("weights_sha256", String, nullable=False),  # the weights that it was read with
    Column("night_id", String, nullable=False),
    Column("scores", JSON, nullable=False),  # one score for each concept
)

attempt_readings = Table(
    "attempt_readings",
    metadata,
    Column("attempt_id", ForeignKey("attempts.id"), primary_key=True),
    Column("vectors", String, primary_key=True),
    Column("weights_sha256", String, nullable=False),
    Column("scores", JSON, nullable=False),
)

baselines = Table(
    "baselines",
    metadata,
    Column("vectors", String, primary_key=True),
    Column("night_id", String, primary_key=True),
    Column("turns", Integer, nullable=False),  # number of the turns that were averaged
    Column("mean", JSON, nullable=False),  # one mean for each concept
    Column("spread", JSON, nullable=False),  # one standard deviation for each concept
)

panel_readings = Table(
    "panel_readings",
    metadata,
    Column("weights_sha256", String, primary_key=True),
    Column("vectors", String, primary_key=True),
    Column("scores", JSON, nullable=False),  # for each text of the probe set: one score for each concept
)

moves = Table(
    "moves",
    metadata,
    Column("update_id", ForeignKey("updates.id"), primary_key=True),
    Column("readings", JSON, nullable=False),  # {concept: move in standard deviations}, the largest moves
    Column("parts", JSON, nullable=False),  # the concentration by layers, kinds, tensors and heads
    Column("verdict", Text, nullable=False),  # local, mixed or spread
)

# ---------------------------------------------------------------- sweeps

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", String, primary_key=True),
    Column("concept", String, nullable=False),
    Column("vectors", String, nullable=False),  # digest of the vectors
    Column("layer", Integer, nullable=False),
    Column("behaviour", String, nullable=False, index=True),
    Column("definition", String, nullable=False),  # as in `measurements`
    Column("weights_sha256", String, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("strengths", JSON, nullable=False),  # ascending, 0 among them
    Column("outcomes", JSON, nullable=False),  # by strength: one character a scenario, 1 passed, 0 failed
    Column("perplexities", JSON, nullable=False),  # by strength, on ordinary text
    Column("verdict", String, nullable=False),  # raises, lowers, no effect or unclear
    Column("slope", Float, nullable=False),  # change of the pass rate for each unit of strength
    Column("reasons", JSON, nullable=False),
    Column("at", String, nullable=False),
)

predictions = Table(
    "predictions",
    metadata,
    Column("id", String, primary_key=True),
    Column("behaviour", String, nullable=False, index=True),
    Column("sweep_id", ForeignKey("sweeps.id"), nullable=False),
    Column("checkpoint_id", String, nullable=False),  # the checkpoint that was active
    Column("said", String, nullable=False),  # the sweep's verdict
    Column("reason", Text, nullable=False),
    Column("at", String, nullable=False),
)

READINGS = (vector_versions, turn_readings, attempt_readings, baselines, panel_readings, moves)
"""The tables of one migration."""
