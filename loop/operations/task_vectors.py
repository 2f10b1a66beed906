"""Task vectors of a home's checkpoints: what updates added to the weights, and what a merge of them would be.

Invariant: reads only, from the ledger and the checkpoints' files, whether a service runs or not.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from corpus.aliases import Json
from corpus.json_edge import to_json
from loop.config import OBSERVING, load_settings
from loop.operations.status import ledger_of
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.task_vectors import merges
from store.task_vectors.arithmetic import ChangeSize, Part
from store.task_vectors.file import MergedTaskVector


def added(home: Home, wanted: str, out: Path | None) -> Json:
    """Report what an update, or a range of them, added to the weights; write it to `out` where one is given."""
    with ledger_of(home) as connection:
        vector = merges.task_vector(connection, wanted)
    part = Part(start=vector.start, end=vector.end, weight=1.0)
    merged = _merged(home, [part], "arithmetic", None)
    result: Json = {
        "from": vector.start,
        "to": vector.end,
        "updates": list(vector.updates),
        **_figures(merged),
    }
    result["out"] = None if out is None else str(out)
    if out is not None:
        merged.write(out.absolute())
    return result


def dry_run(home: Home, wanted: Sequence[str], method: str, density: float | None) -> Json:
    """Report what a merge of these task vectors would be, from the files alone."""
    with ledger_of(home) as connection:
        plan = merges.plan(connection, wanted, method, density)
        active = queries.active(connection).id
    merged = _merged(home, plan.parts(), method, plan.settings.density)
    trains = load_settings(home.config_file).trains
    return {
        "dry_run": True,
        "checkpoint": active,
        **to_json(plan.settings),
        "rise": list(plan.improve),
        "pairs": {"learnt": list(plan.pairs.values()).count(False), "unlearnt": sum(plan.pairs.values())},
        "reasons": [] if trains else [f"the merge would be refused: {OBSERVING}"],
        **_figures(merged),
    }


def _merged(home: Home, parts: list[Part], method: str, density: float | None) -> MergedTaskVector:
    """Return these vectors of the home's checkpoint files."""
    return MergedTaskVector(CheckpointStore(home.checkpoints), parts, method=method, density=density)


def _figures(vectors: MergedTaskVector) -> Json:
    """Return how much a vector changes, by kind of weight and in all."""
    kinds = vectors.by_kind()
    whole = sum(kinds.values(), ChangeSize())
    return {**asdict(whole), "kinds": [{"kind": kind, **asdict(extent)} for kind, extent in kinds.items()]}
