"""`checkpoints vector` and `checkpoints merge --dry-run`: what updates added, and what a merge would add.

Invariant: these commands read only the ledger and the checkpoints' files. They change nothing in the home,
and work whether a service runs or not.
"""

from collections.abc import Sequence
from pathlib import Path

from loop.config import OBSERVING, load_settings
from loop.operations.results.checkpoints import KindChangeSize, MergeDryRun, MergePairs, TaskVectorReport
from loop.operations.status import ledger_of
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.task_vectors import merges
from store.task_vectors.arithmetic import ChangeSize, Part
from store.task_vectors.file import MergedTaskVector


def describe(home: Home, wanted: str, out: Path | None) -> TaskVectorReport:
    """Return the size of the task vector of an update or a range of updates.

    Args:
        home: The home.
        wanted: A checkpoint, or A..B for all updates after A up to B.
        out: A file to which the task vector is written; None to write none.
    """
    with ledger_of(home) as connection:
        vector = merges.task_vector(connection, wanted)
    part = Part(start=vector.start, end=vector.end, weight=1.0)
    merged = _merged(home, [part], "arithmetic", None)
    whole, kinds = _sizes(merged)
    if out is not None:
        merged.write(out.absolute())
    return TaskVectorReport(
        from_=vector.start,
        to=vector.end,
        updates=list(vector.updates),
        norm=whole.norm,
        changed=whole.changed,
        elements=whole.elements,
        kinds=kinds,
        out=None if out is None else str(out),
    )


def dry_run(home: Home, wanted: Sequence[str], method: str, density: float | None) -> MergeDryRun:
    """Return the size of what a merge would add to the weights, computed from the checkpoints' files.

    Args:
        home: The home.
        wanted: The task vectors, each `VECTOR` or `VECTOR=WEIGHT`.
        method: Method of the merge: arithmetic or ties.
        density: Share of each tensor's values that the method ties keeps; None for the default.
    """
    with ledger_of(home) as connection:
        plan = merges.plan(connection, wanted, method, density)
        active = queries.active(connection).id
    settings, unlearnt = plan.settings, list(plan.pairs.values())
    whole, kinds = _sizes(_merged(home, plan.parts(), settings.method, settings.density))
    trains = load_settings(home.config_file).trains
    return MergeDryRun(
        checkpoint=active,
        method=settings.method,
        density=settings.density,
        parts=settings.parts,
        unlearn=settings.unlearn,
        rise=plan.improve,
        pairs=MergePairs(learnt=unlearnt.count(False), unlearnt=sum(unlearnt)),
        reasons=[] if trains else [f"the merge would be refused: {OBSERVING}"],
        norm=whole.norm,
        changed=whole.changed,
        elements=whole.elements,
        kinds=kinds,
    )


def _merged(home: Home, parts: list[Part], method: str, density: float | None) -> MergedTaskVector:
    return MergedTaskVector(CheckpointStore(home.checkpoints), parts, method=method, density=density)


def _sizes(merged: MergedTaskVector) -> tuple[ChangeSize, list[KindChangeSize]]:
    """Return how much a task vector changes the weights: in all, and for each kind of weight."""
    kinds = merged.by_kind()
    whole = sum(kinds.values(), ChangeSize())
    return whole, [KindChangeSize(kind=kind, **vars(size)) for kind, size in kinds.items()]
