"""`checkpoints verify`: every file and every digest of the ledger, or a part of them drawn at random, hashed again.

Invariant: reads only, whether a service runs or not. The active checkpoint and all manifests are always looked at.
"""

from random import Random
from typing import Any

from corpus.errors import UsageError
from loop.operations.status import ledger_of
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.nights.audit import audit


def share(text: str) -> float:
    """A part as a person writes it: 0.1, 10% and 10 are the same; UsageError for what is none."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if text.endswith("%") or value > 1:
        value /= 100
    if not 0 < value <= 1:
        raise UsageError(f"--sample {text!r} is no part of the whole: write 0.1, or 10%")
    return value


def verify(home: Home, part: float) -> dict[str, Any]:
    """What was looked at, and what is damaged."""
    draw = Random()
    store = CheckpointStore(home.checkpoints)
    with ledger_of(home) as connection:
        rows = queries.checkpoints(connection)
        there = queries.stored(connection)
        looked_at = {row for row in there if draw.random() < part} | {queries.active(connection).id}
        found = audit(connection, store.manifest, lambda _: draw.random() < part)
    faults = store.verify(there, sample=looked_at.__contains__)
    if faults:  # a service may have pruned meanwhile: that is no damage
        with ledger_of(home) as connection:
            still = queries.stored(connection)
        faults = [fault for fault in faults if fault.checkpoint_id in still]
    return {
        "checkpoints": len(there),
        "hashed": len(looked_at),
        "pruned": len(rows) - len(there),
        "sample": part,
        "damaged": [
            {"checkpoint": f.checkpoint_id, "path": str(f.path), "problem": f.problem} for f in faults
        ],
        "ledger": found,
    }
