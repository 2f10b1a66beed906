"""Merges in the ledger: the updates of a task vector, the purpose of a merge, and the start of its night.

A user names a task vector by a checkpoint, for the change that the checkpoint's update made, or by `A..B`,
for the changes of all updates after A up to B.

Invariant: the purpose of a merge follows from its parts alone. A behaviour that a part with a weight above 0
taught is to improve. A behaviour that only parts with a weight below 0 taught is to be unlearnt. The same
holds for pairs. A part may itself be a merge: a behaviour that this merge unlearnt is treated the other way
round. This module knows nothing about weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from sqlalchemy import Connection, func, select

from corpus.errors import GateRefused, UsageError
from corpus.json_edge import to_json
from store import queries
from store.ledger import schema
from store.ledger.db import now
from store.ledger.records import Update, UpdatePair, save, seed_of
from store.nights import history
from store.queue.outcome import note
from store.queue.work import enqueue
from store.task_vectors.arithmetic import DENSITY, METHODS, Part

OBJECTIVE = "merge"
"""The objective of an update that is a merge."""


@dataclass(frozen=True, kw_only=True)
class TaskVector:
    """The change of the weights that some consecutive updates made."""

    start: str
    """Id of the checkpoint before the change."""
    end: str
    """Id of the checkpoint after the change."""
    updates: tuple[str, ...]
    """Ids of the updates, oldest first."""


@dataclass(frozen=True, kw_only=True)
class WeightedVector(TaskVector):
    """A task vector with its weight in a merge."""

    weight: float


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """The settings of a merge, as the ledger and the checkpoint's manifest store them."""

    method: str
    density: float | None
    """The share of elements that TIES keeps; None for task arithmetic."""
    parts: tuple[WeightedVector, ...]
    unlearn: tuple[str, ...]
    """The behaviours that the merge is to unlearn."""


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """The settings of a merge, and its purpose."""

    settings: MergeSettings
    improve: tuple[str, ...]
    """The behaviours that the merge is to improve."""
    pairs: dict[str, bool]
    """{pair id: unlearnt} for the pairs of all parts; True for a pair that the merge unlearns."""

    def parts(self) -> list[Part]:
        """Return the parts of the merge as the arithmetic takes them."""
        return [Part(start=v.start, end=v.end, weight=v.weight) for v in self.settings.parts]

    def checkpoints(self) -> list[str]:
        """Return the ids of the checkpoints whose weights the merge needs."""
        return [checkpoint_id for v in self.settings.parts for checkpoint_id in (v.start, v.end)]


def task_vector(connection: Connection, wanted: str) -> TaskVector:
    """Return the task vector that a user names; raise GateRefused if a checkpoint of its ends is pruned.

    Args:
        connection: The ledger.
        wanted: A checkpoint, or two as `A..B`, each as `queries.checkpoint` takes it.
    """
    first, dots, last = wanted.partition("..")
    end = queries.checkpoint(connection, last if dots else first)
    start_id = queries.checkpoint(connection, first).id if dots else end.parent_id
    if start_id is None:
        raise UsageError(
            f"{wanted!r} is checkpoint 0, the base: no update made it, so it added nothing; "
            "name a later checkpoint (`nightschool checkpoints list`)"
        )
    line = history.ancestry(connection, end.id)
    if start_id not in line[1:]:
        raise UsageError(
            f"{wanted!r}: the first is not where the second grew from; see `nightschool checkpoints list`"
        )
    between = [queries.checkpoint(connection, name) for name in line[: line.index(start_id)]]
    for checkpoint_id in (start_id, end.id):
        queries.require_stored(connection, queries.checkpoint(connection, checkpoint_id))
    updates = tuple(row.update_id for row in reversed(between) if row.update_id is not None)
    return TaskVector(start=start_id, end=end.id, updates=updates)


def plan(connection: Connection, vectors: Sequence[str], method: str, density: float | None) -> MergePlan:
    """Return the plan of a merge; raise UsageError if there can be no such merge.

    Args:
        connection: The ledger.
        vectors: The task vectors, each `VECTOR` or `VECTOR=WEIGHT`.
        method: One of METHODS.
        density: The share of elements that TIES keeps; None for the default.
    """
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}; there are {' and '.join(METHODS)}")
    if not vectors:
        raise UsageError(
            "name at least one vector: a checkpoint, or a range A..B, each with =WEIGHT if not 1"
        )
    if method != "ties" and density is not None:
        raise UsageError("a density belongs to --method ties: task arithmetic trims nothing")
    density = DENSITY if method == "ties" and density is None else density
    if density is not None and not 0 < density <= 1:
        raise UsageError(f"a density is a share over 0 and up to 1, not {density:g}")
    parts = [_weighted(connection, name) for name in vectors]
    behaviours: dict[str, bool] = {}
    pairs: dict[str, bool] = {}
    for part in parts:
        for merged, taught in zip((behaviours, pairs), _taught(connection, part), strict=True):
            for name, unlearnt in taught.items():
                # A weight below 0 unlearns what the update taught, and teaches what the update unlearnt.
                merged[name] = merged.get(name, True) and unlearnt == (part.weight > 0)
    unlearn = tuple(sorted(name for name, unlearnt in behaviours.items() if unlearnt))
    return MergePlan(
        settings=MergeSettings(method=method, density=density, parts=tuple(parts), unlearn=unlearn),
        improve=tuple(sorted(behaviours.keys() - set(unlearn))),
        pairs=pairs,
    )


def _weighted(connection: Connection, text: str) -> WeightedVector:
    """Return the task vector and weight that a text `VECTOR` or `VECTOR=WEIGHT` names; the default is 1."""
    name, equals, number = text.partition("=")
    try:
        weight = float(number) if equals else 1.0
    except ValueError:
        weight = 0.0
    if not isfinite(weight) or not weight:
        raise UsageError(
            f"{text!r}: a weight is a number other than 0, as in {name[:12]}=0.5 or {name[:12]}=-1"
        )
    vector = task_vector(connection, name)
    return WeightedVector(start=vector.start, end=vector.end, updates=vector.updates, weight=weight)


def _taught(connection: Connection, vector: TaskVector) -> tuple[dict[str, bool], dict[str, bool]]:
    """Return what a task vector's updates taught: {behaviour: unlearnt} and {pair id: unlearnt}.

    The value is True if the last update with this behaviour or pair unlearnt it.
    """
    names: dict[str, bool] = {}
    pairs: dict[str, bool] = {}
    targets = queries.targets(connection)
    for update_id in vector.updates:
        update = queries.update(connection, update_id)
        unlearnt = queries.unlearnt_by(update) if update is not None else []
        names |= dict.fromkeys(targets[update_id], False) | dict.fromkeys(unlearnt, True)
        own = (pair for pair in queries.pairs_of(connection, update_id) if not pair.replay)
        pairs |= {pair.id: pair.unlearnt for pair in own}
    return names, pairs


def ends(update: Update) -> list[str]:
    """Return the ids of the checkpoints where the task vectors of a merge end; [] for another update."""
    return [part["end"] for part in update.settings["parts"]] if update.objective == OBJECTIVE else []


def begin(
    connection: Connection, *, plan: MergePlan, parent_id: str, seed: int, work: Sequence[tuple[str, str]]
) -> str:
    """Begin the night that adds a merge to the active checkpoint, and return the night's id.

    If the same merge was interrupted, the id of its night is returned, and the night continues.

    Args:
        connection: The ledger, in a transaction that writes.
        plan: The merge.
        parent_id: The checkpoint that was active when the user gave the command.
        seed: The seed of the night.
        work: (kind, subject) of each piece of work that the night begins with.
    """
    settings = to_json(plan.settings)
    running = queries.running_night(connection)
    if running is not None:
        update = queries.update_of(connection, running.id)
        if update is not None and (update.objective, update.settings) == (OBJECTIVE, settings):
            return running.id
        raise GateRefused(
            "a night is running, or was interrupted: `nightschool night` continues it; merge after it"
        )
    if queries.active(connection).id != parent_id:
        raise GateRefused(
            "another checkpoint has become active meanwhile: look at it (`nightschool status`), then merge"
        )
    cursor = int(connection.execute(select(func.max(schema.nights.c.cursor))).scalar() or 0)
    night_id = history.add_night(connection, seed=seed, cursor=cursor, targets=plan.improve)
    update = Update(
        id=f"u{night_id[1:]}",
        night_id=night_id,
        objective=OBJECTIVE,
        settings=settings,
        seed=seed_of(seed, OBJECTIVE, night_id),
        parent_id=parent_id,
        at=now(),
    )
    members = [
        UpdatePair(update_id=update.id, pair_id=pair_id, replay=False, unlearnt=unlearnt)
        for pair_id, unlearnt in sorted(plan.pairs.items())
    ]
    save(connection, [update, *members])
    for kind, subject in work:
        enqueue(connection, kind, subject, night_id)
    note(connection, "night", night_id, {"begun": True, "seed": seed, "merge": settings})
    return night_id
