"""`readout drift`: how far each update moved the readings, and how far the concept vectors have changed.

Invariant: the command reads only the ledger, and works whether a service runs or not.
"""

from sqlalchemy import Connection, func, select

from agents.readout.drift import Joint
from corpus.errors import NightschoolError
from loop.night import readings as night_readings
from loop.operations.results.readouts import Drift, UpdateDrift, UsualReading, UsualReadings, VectorsDrift
from store import queries
from store.ledger import schema
from store.ledger.records import Update
from store.ledger.schema_readings import attempt_readings
from store.readings import readings, vector_versions
from store.readings.records import Baseline, VectorVersion


def drift(connection: Connection) -> Drift:
    """Return how far each update moved the readings, all versions of the vectors, and the usual readings."""
    versions = vector_versions.versions(connection)
    baseline = readings.last_baseline(connection, versions[-1].digest) if versions else None
    count = select(func.count()).select_from(attempt_readings)
    return Drift(
        updates=_updates(connection),
        versions=[_version(row) for row in versions],
        baseline=None if baseline is None else _usual(baseline, versions[-1].concepts),
        turns_read=readings.read_turns(connection),
        attempts_read=int(connection.execute(count).scalar() or 0),
    )


def _updates(connection: Connection) -> list[UpdateDrift]:
    """Return the drift of every update that made a checkpoint, oldest first."""
    u, c = schema.updates, schema.checkpoints
    query = select(u.c.id, c.c.weights_sha256).join(c, c.c.id == u.c.checkpoint_id).order_by(c.c.number)
    rows = connection.execute(query).all()
    return [_update(connection, queries.update(connection, row.id), row.weights_sha256) for row in rows]


def _update(connection: Connection, update: Update | None, after: str) -> UpdateDrift:
    """Return how far one update moved each reading, and how far all readings moved together.

    Args:
        connection: The ledger.
        update: The update.
        after: Digest of the weights after the update.
    """
    assert update is not None, "the query joins on the update's own row"
    before = queries.checkpoint(connection, update.parent_id).weights_sha256
    try:
        pair = night_readings.pair(connection, before, after)
    except NightschoolError:  # no vectors have read the weights both before and after
        return _moved(update, None, {}, None)
    joint = night_readings.joint(connection, before, after)
    vectors = vector_versions.together(connection, before, after)
    moves = {name: round(move, 4) for name, move in night_readings.drift(*pair).items()}
    return _moved(update, vectors, moves, joint)


def _moved(update: Update, vectors: str | None, moves: dict[str, float], joint: Joint | None) -> UpdateDrift:
    return UpdateDrift(
        update=update.id,
        night=update.night_id,
        state=update.state,
        vectors=vectors,
        moves=moves,
        joint=None if joint is None else round(joint.distance, 4),
        parts={} if joint is None else {name: round(part, 4) for name, part in joint.parts.items()},
    )


def _version(row: VectorVersion) -> VectorsDrift:
    """Return one version of the vectors, with its cosines with the version before it."""
    cosines = row.cosines or {}
    mean = round(sum(cosines.values()) / len(cosines), 4) if cosines else None
    return VectorsDrift(
        number=row.number,
        digest=row.digest,
        weights_sha256=row.weights_sha256,
        layer=row.layer,
        method=row.method,
        night_id=row.night_id,
        at=row.at,
        cosines=row.cosines,
        concepts=len(row.concepts),
        mean_cosine=mean,
        furthest=min(cosines, key=lambda name: (cosines[name], name), default=None),
    )


def _usual(baseline: Baseline, concepts: list[str]) -> UsualReadings:
    """Return the mean and standard deviation of each concept's readings over the users' turns."""
    columns = zip(concepts, baseline.mean, baseline.spread, strict=True)
    return UsualReadings(
        vectors=baseline.vectors,
        night=baseline.night_id,
        turns=baseline.turns,
        concepts={name: UsualReading(mean=mean, spread=spread) for name, mean, spread in columns},
    )
