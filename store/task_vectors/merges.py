"""Merges in the ledger: which updates a task vector is made of, what a merge is meant to do, how one begins.

A vector is named as a user does: a checkpoint, for what its update added to its parent, or `A..B`, for what
the updates after A and up to B added.

Invariant: what a merge means follows from its parts alone. What a part with a weight above 0 taught is
meant to rise; what only parts below 0 taught is meant to fall; so it is with their pairs. A merge that was
kept may be a part itself: what it unlearnt counts the other way round. Knows no weights.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from sqlalchemy import Connection, func, select

from corpus.errors import GateRefused, UsageError
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
class Vector:
    """What some updates added."""

    start: str
    """Id of the checkpoint that it begins at."""
    end: str
    updates: tuple[str, ...]
    """Oldest first."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A merge, worked out."""

    method: str
    density: float | None
    """Of TIES; None for task arithmetic."""
    vectors: tuple[tuple[Vector, float], ...]
    """With their weights."""
    rise: tuple[str, ...]
    """Behaviours that it is meant to improve."""
    fall: tuple[str, ...]
    """Behaviours that it is meant to unlearn."""
    pairs: dict[str, bool]
    """Ids of its parts' pairs: whether it unlearns them."""

    def parts(self) -> list[Part]:
        """As the arithmetic has it."""
        return [Part(start=v.start, end=v.end, weight=weight) for v, weight in self.vectors]

    def checkpoints(self) -> list[str]:
        """Ids of those whose weights it needs."""
        return [checkpoint_id for vector, _ in self.vectors for checkpoint_id in (vector.start, vector.end)]

    def settings(self) -> dict[str, Any]:
        """As the ledger and the checkpoint's manifest have it."""
        parts = [
            {**asdict(vector), "updates": list(vector.updates), "weight": w} for vector, w in self.vectors
        ]
        return {"method": self.method, "density": self.density, "parts": parts, "unlearn": list(self.fall)}


def find(connection: Connection, wanted: str) -> Vector:
    """The vector that is named so; its checkpoints' files must not have been pruned."""
    first, dots, last = wanted.partition("..")
    end = queries.checkpoint(connection, last if dots else first)
    start_id = queries.checkpoint(connection, first).id if dots else end.parent_id
    if start_id is None:
        raise UsageError(f"{wanted!r} is checkpoint 0, the base: no update made it, so it added nothing")
    line = history.ancestry(connection, end.id)
    if start_id not in line[1:]:
        raise UsageError(
            f"{wanted!r}: the first is not where the second grew from; see `nightschool checkpoints list`"
        )
    between = [queries.checkpoint(connection, name) for name in line[: line.index(start_id)]]
    for checkpoint_id in (start_id, end.id):
        queries.require_stored(connection, queries.checkpoint(connection, checkpoint_id))
    updates = tuple(row.update_id for row in reversed(between) if row.update_id is not None)
    return Vector(start=start_id, end=end.id, updates=updates)


def recipe(connection: Connection, vectors: Sequence[str], method: str, density: float | None) -> Recipe:
    """The merge of these vectors, each `VECTOR` or `VECTOR=WEIGHT`."""
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
    found = [(find(connection, name), weight) for name, weight in map(_weighted, vectors)]
    meant: dict[str, bool] = {}
    pairs: dict[str, bool] = {}
    for vector, weight in found:
        for whole, part in zip((meant, pairs), _taught(connection, vector), strict=True):
            for name, away in part.items():
                away = away == (weight > 0)  # what an update unlearnt, turned round, is taught
                whole[name] = whole.get(name, True) and away
    return Recipe(
        method=method,
        density=density,
        vectors=tuple(found),
        rise=tuple(sorted(name for name, away in meant.items() if not away)),
        fall=tuple(sorted(name for name, away in meant.items() if away)),
        pairs=pairs,
    )


def _weighted(text: str) -> tuple[str, float]:
    """A vector's name, and its weight."""
    name, equals, said = text.partition("=")
    try:
        weight = float(said) if equals else 1.0
    except ValueError:
        weight = 0.0
    if not isfinite(weight) or not weight:
        raise UsageError(
            f"{text!r}: a weight is a number other than 0, as in {name[:12]}=0.5 or {name[:12]}=-1"
        )
    return name, weight


def _taught(connection: Connection, vector: Vector) -> tuple[dict[str, bool], dict[str, bool]]:
    """Behaviours and pairs that a vector's updates were about: whether they were unlearnt. The last one counts."""
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
    """Ids of the checkpoints whose vectors a merge was made of; none of another update's."""
    return [part["end"] for part in update.settings["parts"]] if update.objective == OBJECTIVE else []


def begin(
    connection: Connection, *, recipe: Recipe, parent_id: str, seed: int, work: Sequence[tuple[str, str]]
) -> str:
    """Begin the night of a merge onto the active checkpoint, as far as its update; returns its id.

    work: (kind, subject) of what the night begins with. The same merge that was broken off goes on instead.
    """
    settings = recipe.settings()
    running = queries.running_night(connection)
    if running is not None:
        of = queries.update_of(connection, running.id)
        if of is not None and (of.objective, of.settings) == (OBJECTIVE, settings):
            return running.id
        raise GateRefused(
            "a night is running, or was broken off: `nightschool night` goes on with it; merge after it"
        )
    if queries.active(connection).id != parent_id:
        raise GateRefused("another checkpoint has become the active one meanwhile: look again, then merge")
    heard = int(connection.execute(select(func.max(schema.nights.c.cursor))).scalar() or 0)
    night_id = history.add_night(connection, seed=seed, cursor=heard, targets=recipe.rise)
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
        UpdatePair(update_id=update.id, pair_id=pair_id, replay=False, unlearnt=away)
        for pair_id, away in sorted(recipe.pairs.items())
    ]
    save(connection, [update, *members])
    for kind, subject in work:
        enqueue(connection, kind, subject, night_id)
    note(connection, "night", night_id, {"begun": True, "seed": seed, "merge": settings})
    return night_id
