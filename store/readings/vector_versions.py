"""Versions of the concept vectors, as the ledger met them: which came when, and how far each lies from the one before.

Vectors drift with the weights that they are estimated on, and are estimated anew on a schedule; the home's files have
the last version alone. Invariant: a version is noted once, and of the last one the values are kept, so that the cosines
with the next can be told whatever becomes of the files. Knows no file.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from store import queries
from store.ledger import schema
from store.ledger.db import now
from store.ledger.schema_readings import vector_versions

Floats = NDArray[Any]
DECIMALS = 4
"""Of a cosine."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Concept vectors, as the ledger met them."""

    digest: str
    weights_sha256: str
    layer: int
    concepts: tuple[str, ...]
    corpus_sha256: str
    values: Floats
    """`(n_concepts, hidden_size)` of that layer."""
    method: str | None = None


def meet(connection: Connection, version: Version, night_id: str) -> None:
    """Note these vectors, with how far each lies from the version before; once.

    night_id: the night that met them, the last one for vectors made by hand, "" before the first.
    """
    t = vector_versions
    if connection.execute(select(t.c.digest).where(t.c.digest == version.digest)).first() is not None:
        return
    last = last_version(connection)
    row = {
        key: getattr(version, key) for key in ("digest", "weights_sha256", "layer", "corpus_sha256", "method")
    }
    row |= {
        "number": 1 + (last["number"] if last else 0),
        "concepts": list(version.concepts),
        "night_id": night_id,
    }
    connection.execute(t.update().values(data=None))
    data = version.values.astype(np.float32).tobytes()
    connection.execute(t.insert().values(**row, cosines=_cosines(last, version), data=data, at=now()))


def last_version(connection: Connection) -> queries.Row | None:
    """The vectors that the ledger met last."""
    row = connection.execute(
        select(vector_versions).order_by(vector_versions.c.number.desc()).limit(1)
    ).mappings()
    found = row.first()
    return None if found is None else dict(found)


def together(connection: Connection, *weights_sha256: str) -> str:
    """Digest of the vectors, the last that the ledger met, that all of these weights were read with; "" for none."""
    met = {row["digest"]: int(row["number"]) for row in versions(connection)}
    shared = queries.read_with(connection, *weights_sha256)
    return max(shared, key=lambda digest: (met.get(digest, 0), digest), default="")


def nights_old(connection: Connection, night_id: str) -> int:
    """How many nights before this one the last vectors were met; those of a night are met in it."""
    n, last = schema.nights, last_version(connection)
    numbers = {row.id: int(row.number) for row in connection.execute(select(n.c.id, n.c.number))}
    return numbers.get(night_id, 0) - numbers.get(last["night_id"] if last else "", 0)


def versions(connection: Connection) -> list[queries.Row]:
    """All of them, oldest first, without their values."""
    columns = [column for column in vector_versions.columns if column.name != "data"]
    rows = connection.execute(select(*columns).order_by(vector_versions.c.number)).mappings()
    return [dict(row) for row in rows]


def _cosines(last: queries.Row | None, version: Version) -> dict[str, float] | None:
    """Of each concept that both have, with the version before; None where they lie in different streams."""
    if last is None or last["data"] is None or last["layer"] != version.layer:
        return None
    before = (
        np.frombuffer(last["data"], dtype=np.float32).reshape(len(last["concepts"]), -1).astype(np.float64)
    )
    if before.shape[1] != version.values.shape[1]:
        return None
    after = version.values.astype(np.float64)
    told = {}
    for index, concept in enumerate(version.concepts):
        if concept in last["concepts"]:
            one, other = before[last["concepts"].index(concept)], after[index]
            told[concept] = round(float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)), DECIMALS)
    return told
