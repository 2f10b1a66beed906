"""`readout drift`: what every update did to the readings, and how far the vectors themselves have drifted.

Invariant: reads the ledger alone, whether a service runs or not.
"""

from sqlalchemy import Connection, func, select

from corpus.aliases import Json
from corpus.errors import NightschoolError
from loop.night import readings
from store import queries
from store.ledger import schema
from store.ledger.schema_readings import attempt_readings
from store.readings import readings as inner
from store.readings import vector_versions
from store.readings.records import Baseline, VectorVersion


def history(connection: Connection) -> Json:
    """Updates with the moves of their readings, versions of the vectors with their cosines, and what is usual."""
    met = vector_versions.versions(connection)
    usual = inner.last_baseline(connection, met[-1].digest) if met else None
    return {
        "updates": _updates(connection),
        "versions": [_version(row) for row in met],
        "baseline": None if usual is None else _baseline(usual, met[-1].concepts),
        "turns_read": inner.read_turns(connection),
        "attempts_read": int(
            connection.execute(select(func.count()).select_from(attempt_readings)).scalar() or 0
        ),
    }


def _updates(connection: Connection) -> list[Json]:
    """The updates that came to a candidate, oldest first."""
    u, c = schema.updates, schema.checkpoints
    query = select(u, c.c.weights_sha256).join(c, c.c.id == u.c.checkpoint_id).order_by(c.c.number)
    return [_update(connection, dict(row)) for row in connection.execute(query).mappings()]


def _update(connection: Connection, update: Json) -> Json:
    """One update: how far each reading moved, in spreads over the panel before, and all together."""
    told = {"update": update["id"], "night": update["night_id"], "state": update["state"], "vectors": None}
    sides = queries.checkpoint(connection, update["parent_id"]).weights_sha256, update["weights_sha256"]
    try:
        pair = readings.pair(connection, *sides)
    except NightschoolError:  # they were not both read
        return {**told, "moves": {}, "joint": None, "parts": {}}
    joint = readings.joint(connection, *sides)
    return {
        **told,
        "vectors": vector_versions.together(connection, *sides),
        "moves": {name: round(move, 4) for name, move in readings.drift(*pair).items()},
        "joint": None if joint is None else round(joint.distance, 4),
        "parts": {} if joint is None else {name: round(part, 4) for name, part in joint.parts.items()},
    }


def _version(row: VectorVersion) -> Json:
    """One version of the vectors, with how far it lies from the one before."""
    keys = ("number", "digest", "weights_sha256", "layer", "method", "night_id", "at", "cosines")
    cosines = row.cosines or {}
    mean = round(sum(cosines.values()) / len(cosines), 4) if cosines else None
    furthest = min(cosines, key=lambda name: (float(cosines[name]), name), default=None)
    told = {key: getattr(row, key) for key in keys}
    return {**told, "concepts": len(row.concepts), "mean_cosine": mean, "furthest": furthest}


def _baseline(usual: Baseline, concepts: list[str]) -> Json:
    """What is usual for each concept, over the turns that were read."""
    columns = zip(concepts, usual.mean, usual.spread, strict=True)
    told = {name: {"mean": mean, "spread": spread} for name, mean, spread in columns}
    return {
        "vectors": usual.vectors,
        "night": usual.night_id,
        "turns": usual.turns,
        "concepts": told,
    }
