"""Reports of one checkpoint, and of the difference of two checkpoints, from the ledger.

Invariant: this module only reads; every figure is counted from rows. Two checkpoints are compared on the
scenarios on which both were measured. If there are none, each side has its own figures, and the result says
so. This module knows nothing about files: `store.tensors.changes` compares the weights themselves.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from sqlalchemy import Connection

from store import queries
from store.ledger.records import Checkpoint, Reading, Update, extend
from store.nights import history
from store.nights.comparisons import (
    CheckpointDifference,
    ComparedBehaviour,
    ComparedCheckpoint,
    LineageStep,
    ReadingMove,
)
from store.nights.results import (
    BeforeAfter,
    CheckpointDetails,
    MakingUpdate,
    MeanReading,
    MeasuredBehaviour,
    PairCount,
    PassCount,
    UpdatePairs,
    UpdateVerdict,
)
from store.readings import readings as inner
from store.readings import vector_versions

Outcomes = dict[tuple[str, str, int, int], str]
"""Outcomes by (behaviour, definition, seed, round): one character for each scenario, 1 passed or 0 failed."""

# ---------------------------------------------------------------- one checkpoint


def one(connection: Connection, wanted: str, definitions: Mapping[str, str]) -> CheckpointDetails:
    """Return everything that the ledger has of one checkpoint.

    Args:
        connection: The ledger.
        wanted: The checkpoint, as `queries.checkpoint` takes it.
        definitions: The digest of each behaviour's present definition, by name.
    """
    row = queries.checkpoint(connection, wanted)
    update = queries.update(connection, row.update_id)
    outcomes = _by_behaviour(queries.measured(connection, row.weights_sha256))
    (readings,) = _readings(connection, row.weights_sha256)
    return extend(
        CheckpointDetails,
        row,
        active=row.id == queries.active(connection).id,
        children=[other.id for other in queries.checkpoints(connection) if other.parent_id == row.id],
        targets=queries.targets(connection).get(row.update_id or "", []),
        update=None if update is None else _update(connection, update),
        behaviours=[
            extend(
                MeasuredBehaviour,
                _passed(rounds.values()),
                name=name,
                current=definitions.get(name) == definition,
            )
            for (name, definition), rounds in outcomes.items()
        ],
        readings=[
            MeanReading(name=name, mean=readings[name].mean, spread=readings[name].spread)
            for name in sorted(readings)
        ],
    )


def _update(connection: Connection, update: Update) -> MakingUpdate:
    """Return the update that made a checkpoint, with its pairs and its verdict."""
    verdict = queries.verdict(connection, update.id)
    return MakingUpdate(
        id=update.id,
        night_id=update.night_id,
        objective=update.objective,
        settings=update.settings,
        seed=update.seed,
        steps=update.steps,
        state=update.state,
        reasons=update.reasons,
        at=update.at,
        verdict=None
        if verdict is None
        else UpdateVerdict(
            decision=verdict.decision, reasons=verdict.reasons, tests=verdict.tests, at=verdict.at
        ),
        pairs=_pairs(connection, update.id),
    )


def _pairs(connection: Connection, update_id: str) -> UpdatePairs:
    """Return the new and the replayed pairs of an update, and their numbers by behaviour."""
    rows = queries.pairs_of(connection, update_id)
    new, replay = ([pair for pair in rows if pair.replay == replayed] for replayed in (False, True))
    counts = [
        PairCount(
            name=name,
            new=sum(pair.behaviour == name for pair in new),
            replay=sum(pair.behaviour == name for pair in replay),
        )
        for name in sorted({pair.behaviour for pair in rows})
    ]
    return UpdatePairs(
        new=[pair.id for pair in new], replay=[pair.id for pair in replay], behaviours=counts
    )  # fmt: skip


# ---------------------------------------------------------------- two checkpoints


def between(
    connection: Connection, wanted: Sequence[str], definitions: Mapping[str, str]
) -> CheckpointDifference:
    """Return the difference between two checkpoints, as far as the ledger has it.

    Args:
        connection: The ledger.
        wanted: The two checkpoints, as `queries.checkpoint` takes them.
        definitions: The digest of each behaviour's present definition, by name.
    """
    first, second = (queries.checkpoint(connection, name) for name in wanted)
    weights = first.weights_sha256, second.weights_sha256
    before, after = _readings(connection, *weights)
    measured = [queries.measured(connection, digest) for digest in weights]
    common, removed, added = _way(connection, first.id, second.id)
    return CheckpointDifference(
        from_=_compared(first),
        to=_compared(second),
        behaviours=_rates(measured[0], measured[1], definitions),
        readings=_moves(before, after),
        perplexity=_perplexity(connection, *weights),
        common=common,
        removed=removed,
        added=added,
    )


def _compared(row: Checkpoint) -> ComparedCheckpoint:
    """Return a summary of one of the two compared checkpoints."""
    return ComparedCheckpoint(
        id=row.id,
        number=row.number,
        state=row.state,
        weights_sha256=row.weights_sha256,
        pruned=row.pruned,
        at=row.at,
    )


def _rates(before: Outcomes, after: Outcomes, definitions: Mapping[str, str]) -> list[ComparedBehaviour]:
    """Return the pass counts of each behaviour that both checkpoints were measured on, by one definition.

    If both have a round of scenarios in common, only common rounds count, scenario by scenario.

    Args:
        before: The outcomes on the first checkpoint.
        after: The outcomes on the second.
        definitions: The digest of each behaviour's present definition, by name.
    """
    sides, compared = (_by_behaviour(before), _by_behaviour(after)), []
    for key in sorted(sides[0].keys() & sides[1].keys()):
        first, second = sides[0][key], sides[1][key]
        shared = [(first[r], second[r]) for r in sorted(first.keys() & second.keys())]
        turned = [(a, b) for one, other in shared for a, b in zip(one, other, strict=False)]
        if turned:
            first, second = ({(0, 0): "".join(side)} for side in zip(*turned, strict=True))
        compared.append(
            ComparedBehaviour(
                name=key[0],
                current=definitions.get(key[0]) == key[1],
                same_scenarios=bool(turned),
                before=_passed(first.values()),
                after=_passed(second.values()),
                gained=turned.count(("0", "1")) if turned else None,
                lost=turned.count(("1", "0")) if turned else None,
            )
        )
    return compared


def _by_behaviour(outcomes: Outcomes) -> dict[tuple[str, str], dict[tuple[int, int], str]]:
    """Return the outcomes by (behaviour, definition), and within each by (seed, round)."""
    groups = groupby(sorted(outcomes), key=lambda key: key[:2])
    return {
        (name, definition): {key[2:]: outcomes[key] for key in keys} for (name, definition), keys in groups
    }


def _passed(rounds: Iterable[str]) -> PassCount:
    """Return how many scenarios these rounds have, and how many of them were passed."""
    whole = "".join(rounds)
    return PassCount(passed=whole.count("1"), trials=len(whole))


def _readings(connection: Connection, *weights_sha256: str) -> list[dict[str, Reading]]:
    """Return, for each of these weights, the readings by name; all are taken with the same vectors."""
    vectors = vector_versions.together(connection, *weights_sha256)
    return [queries.readings(connection, weights, vectors) for weights in weights_sha256]


def _moves(before: Mapping[str, Reading], after: Mapping[str, Reading]) -> list[ReadingMove]:
    """Return the moves of the concepts' readings, in standard deviations of `before`, the largest first."""
    moves = [
        ReadingMove(
            name=name,
            before=before[name].mean,
            after=after[name].mean,
            move=before[name].move_to(after[name]),
        )
        for name in sorted((before.keys() & after.keys()) - {"perplexity"})
    ]
    return sorted(moves, key=lambda row: -abs(row.move))


def _perplexity(connection: Connection, before: str, after: str) -> BeforeAfter:
    """Return the perplexity before and after, on the same text."""
    first, second = queries.perplexity_pair(connection, before, after)
    return BeforeAfter(before=first, after=second)


# ---------------------------------------------------------------- the way


def _way(
    connection: Connection, first: str, second: str
) -> tuple[str | None, list[LineageStep], list[LineageStep]]:
    """Return the id of the newest common ancestor, the steps from it to `first`, and those to `second`."""
    rows = {row.id: row for row in queries.checkpoints(connection)}
    lines = [history.ancestry(connection, name) for name in (first, second)]
    common = next((name for name in lines[0] if name in lines[1]), None)
    removed, added = (
        [
            _step(connection, rows[name])
            for name in reversed(line[: line.index(common)] if common in line else line)
        ]
        for line in lines
    )
    return common, removed, added


def _step(connection: Connection, checkpoint: Checkpoint) -> LineageStep:
    """Return a checkpoint between the two compared ones, with the pairs of the update that made it."""
    update = queries.update(connection, checkpoint.update_id)
    return LineageStep(
        checkpoint=checkpoint.id,
        number=checkpoint.number,
        update=checkpoint.update_id,
        objective=None if update is None else update.objective,
        targets=queries.targets(connection).get(checkpoint.update_id or "", []),
        pairs=None if update is None else _pairs(connection, update.id),
        moves=inner.moves_of(connection, checkpoint.update_id),
    )
