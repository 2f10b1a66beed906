"""Versions of the concept vectors in the ledger, and how far each lies from the one before.

Vectors drift with the weights that they are estimated on, and are estimated again on a schedule; the home's
files hold the last version alone.

Invariant: a version is noted once. The ledger keeps the values of the last one, so that the cosines with the
next can be computed whatever becomes of the files. This module knows nothing about files.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, null, select

from store import queries
from store.ledger import schema
from store.ledger.db import now
from store.ledger.records import insert
from store.ledger.rows import all_of, first_of
from store.ledger.schema_readings import vector_versions
from store.readings.records import VectorVersion

Floats = NDArray[Any]
DECIMALS = 4
"""Of a cosine."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Concept vectors that a night or a user brings."""

    digest: str
    weights_sha256: str
    layer: int
    concepts: tuple[str, ...]
    corpus_sha256: str
    values: Floats
    """`(n_concepts, hidden_size)` of that layer."""
    method: str | None = None


def meet(connection: Connection, version: Version, night_id: str) -> None:
    """Record these vectors once, with their cosines with the version before.

    Args:
        connection: The ledger.
        version: The vectors.
        night_id: The night that uses them first; the last one for vectors made by hand, "" before the first.
    """
    t = vector_versions
    if connection.execute(select(t.c.digest).where(t.c.digest == version.digest)).first() is not None:
        return
    last = last_version(connection)
    row = VectorVersion(
        digest=version.digest,
        number=1 + (last.number if last else 0),
        weights_sha256=version.weights_sha256,
        layer=version.layer,
        concepts=list(version.concepts),
        corpus_sha256=version.corpus_sha256,
        method=version.method,
        night_id=night_id,
        cosines=_cosines(last, version),
        data=version.values.astype(np.float32).tobytes(),
        at=now(),
    )
    connection.execute(t.update().values(data=None))
    insert(connection, t, [row])


def last_version(connection: Connection) -> VectorVersion | None:
    """Return the newest version, with its values."""
    return first_of(
        connection, VectorVersion, select(vector_versions).order_by(vector_versions.c.number.desc())
    )


def versions(connection: Connection) -> list[VectorVersion]:
    """Return all versions, oldest first, without their values."""
    columns = [c if c.name != "data" else null().label("data") for c in vector_versions.columns]
    return all_of(connection, VectorVersion, select(*columns).order_by(vector_versions.c.number))


def together(connection: Connection, *weights_sha256: str) -> str:
    """Return the digest of the newest vectors with which all of these weights were read; "" for none."""
    numbers = {row.digest: row.number for row in versions(connection)}
    shared = queries.read_with(connection, *weights_sha256)
    return max(shared, key=lambda digest: (numbers.get(digest, 0), digest), default="")


def nights_old(connection: Connection, night_id: str) -> int:
    """Count the nights from the one that met the last vectors to this one."""
    n, last = schema.nights, last_version(connection)
    numbers = {row.id: int(row.number) for row in connection.execute(select(n.c.id, n.c.number))}
    return numbers.get(night_id, 0) - numbers.get(last.night_id if last else "", 0)


def _cosines(last: VectorVersion | None, version: Version) -> dict[str, float] | None:
    """Return the cosine of each concept that both have; None if they lie in different streams."""
    if last is None or last.data is None or last.layer != version.layer:
        return None
    before = np.frombuffer(last.data, dtype=np.float32).reshape(len(last.concepts), -1).astype(np.float64)
    if before.shape[1] != version.values.shape[1]:
        return None
    after = version.values.astype(np.float64)
    cosines = {}
    for index, concept in enumerate(version.concepts):
        if concept in last.concepts:
            one, other = before[last.concepts.index(concept)], after[index]
            cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
            cosines[concept] = round(cosine, DECIMALS)
    return cosines
