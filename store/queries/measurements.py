"""Queries of measured weights: outcomes of held-out scenarios, and readings.

Invariant: this module only reads. All results belong to the digest of the weights, so that they are found
again when a checkpoint becomes active again. Outcomes are a text with one character for each answer: 1
passed, 0 failed.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, and_, or_, select

from store.ledger import schema
from store.ledger.records import Measurement, Reading
from store.ledger.rows import all_of


def measurements(
    connection: Connection, weights_sha256: str, definitions: Mapping[str, str], seed: int
) -> dict[str, str]:
    """Return the outcomes of these weights by behaviour, with the batches of one seed joined in order.

    Args:
        connection: The ledger.
        weights_sha256: Digest of the weights.
        definitions: The digest of each behaviour's present definition, by name; others do not count.
        seed: The seed of the answers.
    """
    t = schema.measurements
    query = select(t).where((t.c.weights_sha256 == weights_sha256) & (t.c.seed == seed))
    outcomes: dict[str, str] = {}
    for row in all_of(connection, Measurement, query.order_by(t.c.behaviour, t.c.round)):
        if row.definition == definitions.get(row.behaviour):
            outcomes[row.behaviour] = outcomes.get(row.behaviour, "") + row.outcomes
    return outcomes


def batches(
    connection: Connection, weights_sha256: str, behaviour: str, definition: str, seed: int
) -> dict[int, str]:
    """Return the outcomes of a behaviour with this definition: those of each batch, by its number."""
    t = schema.measurements
    same = (
        (t.c.weights_sha256 == weights_sha256) & (t.c.behaviour == behaviour) & (t.c.definition == definition)
    )
    query = select(t.c.round, t.c.outcomes).where(same & (t.c.seed == seed)).order_by(t.c.round)
    return {number: outcomes for number, outcomes in connection.execute(query)}


def measured(connection: Connection, weights_sha256: str) -> dict[tuple[str, str, int, int], str]:
    """Return all outcomes of these weights, by (behaviour, definition, seed, round)."""
    t = schema.measurements
    query = select(t).where(t.c.weights_sha256 == weights_sha256).order_by(*t.primary_key.columns)
    rows = all_of(connection, Measurement, query)
    return {(row.behaviour, row.definition, row.seed, row.round): row.outcomes for row in rows}


def readings(connection: Connection, weights_sha256: str, vectors: str = "") -> dict[str, Reading]:
    """Return the readings of these weights by name: a concept, or `perplexity`.

    Args:
        connection: The ledger.
        weights_sha256: Digest of the weights.
        vectors: Digest of the concept vectors that the readings were taken with; "" for the perplexity alone.
    """
    t = schema.readings
    taken = and_(t.c.vectors == vectors, t.c.vectors != "")
    query = select(t).where(t.c.weights_sha256 == weights_sha256, or_(t.c.name == "perplexity", taken))
    return {row.name: row for row in all_of(connection, Reading, query.order_by(t.c.name, t.c.vectors))}


def perplexities(connection: Connection, weights_sha256: str) -> dict[str, float]:
    """Return the perplexity of these weights on each ordinary text that was read, by the text's name."""
    t = schema.readings
    query = select(t).where(t.c.weights_sha256 == weights_sha256, t.c.name == "perplexity")
    return {row.vectors: row.mean for row in all_of(connection, Reading, query)}


def perplexity_pair(connection: Connection, before: str, after: str) -> tuple[float | None, float | None]:
    """Return the perplexities of two weights on the same text; None for weights without a perplexity.

    Both are None if the two have perplexities on different texts only.

    Args:
        connection: The ledger.
        before: Digest of the first weights.
        after: Digest of the second weights.
    """
    sides = perplexities(connection, before), perplexities(connection, after)
    shared = set.intersection(*(set(side) for side in sides if side)) if any(sides) else set()
    text = max(shared, default=None)
    return (None, None) if text is None else (sides[0].get(text), sides[1].get(text))


def read_with(connection: Connection, *weights_sha256: str) -> set[str]:
    """Return the digests of the concept vectors with which each of these weights was read."""
    t = schema.readings
    concepts = select(t.c.vectors).where(t.c.name != "perplexity")
    each = [
        set(connection.execute(concepts.where(t.c.weights_sha256 == weights)).scalars())
        for weights in weights_sha256
    ]
    return set.intersection(*each) - {""}
