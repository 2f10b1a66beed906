"""Records are rows: fields are columns, ids are digests of content, and a second save has no effect."""

from collections.abc import Iterator
from dataclasses import MISSING, FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from night import a_dream, a_pair, a_signal, new_ledger
from sqlalchemy import Connection, func, select

from store.ledger import schema
from store.ledger.records import TABLES, Rate, Step, identity, save, seed_of
from store.nights import history
from store.readings import records as readings

RECORDS = {**TABLES, **readings.TABLES}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as writing:
        history.begin_night(writing, seed=1, retry=False)
        yield writing
    ledger.close()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_records_fields_are_its_tables_columns(record: type[Any]) -> None:
    columns = {column.name for column in RECORDS[record].columns}
    assert {field.name for field in fields(record)} == columns


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_optional_fields_of_a_record_are_the_columns_with_null_or_a_default(
    record: type[Any],
) -> None:
    for field in fields(record):
        column = RECORDS[record].columns[field.name]
        if field.default is None:
            assert column.nullable, field.name
        elif field.default is MISSING and field.default_factory is MISSING and not column.nullable:
            assert "None" not in str(field.type), field.name


def test_records_are_frozen_and_take_keywords_only() -> None:
    rate = Rate(behaviour="listen", failed=0.0, passed=1.0, temperature=1.0)
    with pytest.raises(FrozenInstanceError):
        rate.failed = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Rate("listen", 0.0, 1.0, 1.0)  # type: ignore[misc]


def test_a_record_is_read_as_it_was_saved(connection: Connection) -> None:
    strange = [{"role": "user", "content": "caf\u00e9 \U0001f600 '; DROP TABLE pairs; -- \"\\n\0 end"}]
    save(connection, [a_pair("p1", "n1", messages=strange, trust=0.1 + 0.2)])
    row = connection.execute(select(schema.pairs)).mappings().one()
    assert (row["messages"], row["trust"]) == (strange, 0.1 + 0.2)


def test_the_same_record_saved_twice_is_one_row_and_the_first_stands(connection: Connection) -> None:
    save(connection, [a_dream("d1", "n1"), a_dream("d1", "n1", temperature=2.0)])
    save(connection, [a_dream("d1", "n1", temperature=3.0), a_dream("d2", "n1")])
    rows = connection.execute(
        select(schema.dreams.c.id, schema.dreams.c.temperature).order_by(schema.dreams.c.id)
    )
    assert [tuple(row) for row in rows] == [("d1", 1.0), ("d2", 1.0)]


def test_records_of_several_tables_are_saved_whatever_their_order(connection: Connection) -> None:
    save(connection, [a_pair("p1", "n1", dream_id="d1"), a_signal(2), a_dream("d1", "n1")])
    assert connection.execute(select(func.count()).select_from(schema.pairs)).scalar() == 1


def test_saving_no_records_does_nothing(connection: Connection) -> None:
    save(connection, [])
    with pytest.raises(KeyError):
        save(connection, [object()])  # type: ignore[list-item]


def test_metrics_are_stored_exactly(connection: Connection) -> None:
    from night import a_trained_night

    update = a_trained_night(connection, a_pair("p1", "?"))
    metrics = {"loss": 1 / 3, "tiny": 5e-324, "large": 1.7976931348623157e308}
    save(connection, [Step(update_id=update.id, step=1, metrics=metrics)])
    assert connection.execute(select(schema.steps.c.metrics)).scalar() == metrics


def test_an_identity_depends_only_on_its_parts_their_order_and_their_boundaries() -> None:
    assert identity("a", 1, {"x": 1, "y": 2}) == identity("a", 1, {"y": 2, "x": 1})
    every = [("a", "b"), ("ab",), ("b", "a"), ("a", "b", ""), ("a", ["b"]), ("a", 1), ("a", "1"), ("\ud800",)]
    assert len({identity(*parts) for parts in every}) == len(every)
    assert identity("nightschool") == "530d87481eb346d6"  # another digest would lose every ledger's own rows


def test_a_seed_is_deterministic_and_uses_31_bits() -> None:
    seeds = [seed_of(0, "dream", index) for index in range(4000)]
    assert seeds == [seed_of(0, "dream", index) for index in range(4000)]
    assert len(set(seeds)) > 3990 and 0 <= min(seeds) and max(seeds) < 2**31
    assert max(seeds) > 2**31 * 0.99 and min(seeds) < 2**31 * 0.01
    assert seed_of(1, "dream", 0) != seed_of(0, "dream", 0)
