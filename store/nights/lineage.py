"""What the ledger tells of one checkpoint, and of the way from one to another.

Invariant: reads only; every figure is counted from rows. Two checkpoints are compared only on scenarios that
both were measured on; where there are none, each side's own figures stand beside each other and say so. Knows
no file: what the weights themselves tell is `changes.py`'s.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection

from corpus.aliases import Json
from store import queries
from store.nights import history
from store.readings import readings as inner
from store.readings import vector_versions

Outcomes = dict[tuple[str, str, int, int], str]
"""By behaviour, definition, seed and round: one character a scenario."""
SPREAD_FLOOR = 1e-6
"""The least spread that a reading's move is held against."""


def one(connection: Connection, wanted: str, definitions: Mapping[str, str]) -> Json:
    """Everything that the ledger has of one checkpoint.

    definitions: of each behaviour as it is measured now.
    """
    row = queries.checkpoint(connection, wanted)
    update = queries.update(connection, row["update_id"])
    outcomes = queries.measured(connection, row["weights_sha256"])
    (readings,) = _readings(connection, row["weights_sha256"])
    return {
        **row,
        "active": row["id"] == queries.active(connection)["id"],
        "children": [
            other["id"] for other in queries.checkpoints(connection) if other["parent_id"] == row["id"]
        ],
        "targets": queries.targets(connection).get(row["update_id"], []),
        "update": None if update is None else _update(connection, update),
        "behaviours": [
            {"name": name, "current": definitions.get(name) == definition, **_passed(rounds.values())}
            for (name, definition), rounds in _by_behaviour(outcomes).items()
        ],
        "readings": [
            {key: readings[name][key] for key in ("name", "mean", "spread")} for name in sorted(readings)
        ],
    }


def between(connection: Connection, wanted: Sequence[str], definitions: Mapping[str, str]) -> Json:
    """What the ledger has of the way from one checkpoint to another.

    wanted: the two. definitions: of each behaviour as it is measured now.
    """
    rows = [queries.checkpoint(connection, name) for name in wanted]
    outcomes = [queries.measured(connection, row["weights_sha256"]) for row in rows]
    readings = _readings(connection, *(row["weights_sha256"] for row in rows))
    keys = ("id", "number", "state", "weights_sha256", "pruned", "at")
    return {
        "from": {key: rows[0][key] for key in keys},
        "to": {key: rows[1][key] for key in keys},
        "behaviours": _rates(outcomes[0], outcomes[1], definitions),
        **_moves(readings[0], readings[1]),
        **_way(connection, rows[0]["id"], rows[1]["id"]),
    }


def _readings(connection: Connection, *weights_sha256: str) -> list[dict[str, queries.Row]]:
    """The readings of all these weights, taken with the same vectors."""
    vectors = vector_versions.together(connection, *weights_sha256)
    return [queries.readings(connection, weights, vectors) for weights in weights_sha256]


def _update(connection: Connection, update: queries.Row) -> Json:
    """The update that made a checkpoint, with its pairs and its verdict."""
    keys = ("id", "night_id", "objective", "settings", "seed", "steps", "state", "reasons", "at")
    verdict = queries.verdict(connection, update["id"])
    told = None if verdict is None else {key: verdict[key] for key in ("decision", "reasons", "tests", "at")}
    return {**{key: update[key] for key in keys}, "verdict": told, "pairs": _pairs(connection, update["id"])}


def _pairs(connection: Connection, update_id: str) -> Json:
    """How many pairs an update was made of, by behaviour, and which; replay beside the new ones."""
    rows = queries.pairs_of(connection, update_id)
    behaviours: dict[str, Json] = {}
    for row in rows:
        counts = behaviours.setdefault(row["behaviour"], {"new": 0, "replay": 0})
        counts["replay" if row["replay"] else "new"] += 1
    return {
        "new": [row["id"] for row in rows if not row["replay"]],
        "replay": [row["id"] for row in rows if row["replay"]],
        "behaviours": [{"name": name, **behaviours[name]} for name in sorted(behaviours)],
    }


def _by_behaviour(outcomes: Outcomes) -> dict[tuple[str, str], dict[tuple[int, int], str]]:
    """The outcomes of each behaviour under each of its definitions, by seed and round."""
    groups = groupby(sorted(outcomes), key=lambda key: key[:2])
    return {
        (name, definition): {key[2:]: outcomes[key] for key in keys} for (name, definition), keys in groups
    }


def _passed(rounds: Any) -> Json:
    """How many scenarios of some rounds were passed."""
    whole = "".join(rounds)
    return {"passed": whole.count("1"), "trials": len(whole)}


def _rates(before: Outcomes, after: Outcomes, definitions: Mapping[str, str]) -> list[Json]:
    """Each behaviour that was measured on both, as it was defined then.

    `same_scenarios`: the figures are of the rounds that both have, scenario by scenario; `gained` and `lost` say
    how many of them turned. Else each side's are of its own rounds.
    """
    sides, found = (_by_behaviour(before), _by_behaviour(after)), []
    for key in sorted(sides[0].keys() & sides[1].keys()):
        first, second = sides[0][key], sides[1][key]
        shared = [(first[r], second[r]) for r in sorted(first.keys() & second.keys())]
        turned = [(a, b) for one, other in shared for a, b in zip(one, other, strict=False)]
        if turned:
            first, second = ({(0, 0): "".join(side)} for side in zip(*turned, strict=True))
        found.append(
            {
                "name": key[0],
                "current": definitions.get(key[0]) == key[1],
                "same_scenarios": bool(turned),
                "before": _passed(first.values()),
                "after": _passed(second.values()),
                "gained": turned.count(("0", "1")) if turned else None,
                "lost": turned.count(("1", "0")) if turned else None,
            }
        )
    return found


def _moves(before: dict[str, queries.Row], after: dict[str, queries.Row]) -> Json:
    """Each reading's move, in spreads of the first one's, largest first; and the perplexity."""
    both = sorted((before.keys() & after.keys()) - {"perplexity"})
    moves = [
        {
            "name": name,
            "before": before[name]["mean"],
            "after": after[name]["mean"],
            "move": (after[name]["mean"] - before[name]["mean"]) / max(before[name]["spread"], SPREAD_FLOOR),
        }
        for name in both
    ]
    perplexity = [side["perplexity"]["mean"] if "perplexity" in side else None for side in (before, after)]
    return {
        "readings": sorted(moves, key=lambda row: -abs(row["move"])),
        "perplexity": {"before": perplexity[0], "after": perplexity[1]},
    }


def _way(connection: Connection, first: str, second: str) -> Json:
    """The updates on the way: those that the second has and the first has not, and the other way round.

    Both are counted from the newest checkpoint that both grew from.
    """
    rows = {row["id"]: row for row in queries.checkpoints(connection)}
    lines = [history.ancestry(connection, name) for name in (first, second)]
    common = next((name for name in lines[0] if name in lines[1]), None)
    told: Json = {"common": common}
    for key, line in (("removed", lines[0]), ("added", lines[1])):
        steps = line[: line.index(common)] if common in line else line
        told[key] = [_step(connection, rows[name]) for name in reversed(steps)]
    return told


def _step(connection: Connection, checkpoint: queries.Row) -> Json:
    """One checkpoint on the way, and the pairs of the update that made it."""
    update = queries.update(connection, checkpoint["update_id"])
    return {
        "checkpoint": checkpoint["id"],
        "number": checkpoint["number"],
        "update": checkpoint["update_id"],
        "objective": None if update is None else update["objective"],
        "targets": queries.targets(connection).get(checkpoint["update_id"], []),
        "pairs": None if update is None else _pairs(connection, update["id"]),
        "moves": inner.moves_of(connection, checkpoint["update_id"]),
    }
