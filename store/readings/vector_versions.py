"""Versions of the concept vectors in the ledger, each with its similarity to the version before.

Vectors drift with the weights on which they are estimated, and are estimated again on a schedule. The home's
files hold the last version alone.

Invariant: a version is recorded once. The ledger stores the values of the last version, so that the cosines
with the next one can be computed even if the files are lost. This module knows nothing about files.
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
"""Decimals of a cosine."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Concept vectors that were estimated by a night or by a user's command."""

    digest: str
    weights_sha256: str
    layer: int
    concepts: tuple[str, ...]
    corpus_sha256: str
    values: Floats
    """The vectors, `(n_concepts, hidden_size)`, to be read after `layer`."""
    method: str | None = None


def meet(connection: Connection, version: Version, night_id: str) -> None:
    """Record these vectors as the newest version, unless they are recorded already.

    Args:
        connection: The ledger, in a transaction that writes.
        version: The vectors.
        night_id: The night that uses them first. For vectors made by hand, the last night; "" if there was
            none.
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
    """Return the newest version, with its values; None if there is none."""
    return first_of(
        connection, VectorVersion, select(vector_versions).order_by(vector_versions.c.number.desc())
    )


def versions(connection: Connection) -> list[VectorVersion]:
    """Return all versions, oldest first, without their values."""
    columns = [c if c.name != "data" else null().label("data") for c in vector_versions.columns]
    return all_of(connection, VectorVersion, select(*columns).order_by(vector_versions.c.number))


def together(connection: Connection, *weights_sha256: str) -> str:
    """Return the digest of the newest vectors with which each of these weights was read; "" if none was."""
    numbers = {row.digest: row.number for row in versions(connection)}
    shared = queries.read_with(connection, *weights_sha256)
    return max(shared, key=lambda digest: (numbers.get(digest, 0), digest), default="")


def nights_old(connection: Connection, night_id: str) -> int:
    """Return the number of nights between the first use of the newest vectors and this night."""
    n, last = schema.nights, last_version(connection)
    numbers = {row.id: int(row.number) for row in connection.execute(select(n.c.id, n.c.number))}
    return numbers.get(night_id, 0) - numbers.get(last.night_id if last else "", 0)


def _cosines(last: VectorVersion | None, version: Version) -> dict[str, float] | None:
    """Return the cosine between both versions of each common concept's vector, by concept.

    Returns:
        None if there is no earlier version, or if it is for another layer or another hidden size.
    """
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
