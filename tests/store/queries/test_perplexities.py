"""Perplexities are compared on the same ordinary text only."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from store import queries
from store.ledger.db import Ledger
from store.ledger.records import Reading, save


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with ledger.writing() as writing:
        yield writing
    ledger.close()


def read(connection: Connection, weights: str, **means: float) -> None:
    """Note the perplexity of these weights on each of these texts; `world` is the one without a name."""
    for text, mean in means.items():
        name = "" if text == "world" else text
        row = Reading(weights_sha256=weights, name="perplexity", vectors=name, mean=mean, spread=0.0)
        save(connection, [row])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"world": 1.2}, {"world": 1.5}, (1.2, 1.5)),
        ({"world": 1.2, "talk": 20.0}, {"talk": 21.0}, (20.0, 21.0)),
        ({"world": 1.2}, {"talk": 21.0}, (None, None)),
        ({"talk": 20.0}, {}, (20.0, None)),
        ({}, {}, (None, None)),
    ],
)
def test_two_weights_are_compared_on_a_text_that_both_were_read_on(
    connection: Connection,
    before: dict[str, float],
    after: dict[str, float],
    expected: tuple[float | None, float | None],
) -> None:
    read(connection, "b", **before)
    read(connection, "a", **after)
    assert queries.perplexity_pair(connection, "b", "a") == expected


def test_the_name_of_a_text_is_no_digest_of_vectors(connection: Connection) -> None:
    read(connection, "w", talk=20.0)
    save(connection, [Reading(weights_sha256="w", name="calm", vectors="v", mean=0.5, spread=0.1)])
    assert queries.read_with(connection, "w") == {"v"}
    assert queries.perplexities(connection, "w") == {"talk": 20.0}
