"""Rows as records, and queries for many values of one column.

Invariant: only `build` makes a record from a row. The rows for many values are in the order of the table's
primary key. This module knows nothing about the meaning of a table.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, select

Kind = TypeVar("Kind")

MOST_PARAMETERS = 500
"""Most values in one IN (...): SQLite accepts 32,766 parameters in one statement, older versions 999."""


def build(kind: type[Kind], row: Mapping[Any, Any]) -> Kind:
    """Return a record of class `kind` with the values of a row whose columns are the record's fields."""
    return kind(**row)


def all_of(connection: Connection, kind: type[Kind], query: Select[Any]) -> list[Kind]:
    """Return every row of a query as a record of class `kind`."""
    return [build(kind, row) for row in connection.execute(query).mappings()]


def first_of(connection: Connection, kind: type[Kind], query: Select[Any]) -> Kind | None:
    """Return the first row of a query as a record of class `kind`; None if there is no row."""
    row = connection.execute(query).mappings().first()
    return None if row is None else build(kind, row)


def among(
    connection: Connection, kind: type[Kind], table: Table, column: str, values: Iterable[Any]
) -> list[Kind]:
    """Return the rows of `table` whose `column` has one of these values, as records of class `kind`.

    They are in the order of the table's primary key.
    """
    rows: list[Kind] = []
    for part in parts(sorted(values)):
        rows += all_of(connection, kind, select(table).where(table.c[column].in_(part)))
    keys = [key.name for key in table.primary_key.columns]
    return sorted(rows, key=lambda row: [getattr(row, key) for key in keys])


def delete_among(connection: Connection, table: Table, column: str, values: Iterable[Any]) -> None:
    """Delete the rows of `table` whose `column` has one of these values."""
    for part in parts(sorted(values)):
        connection.execute(table.delete().where(table.c[column].in_(part)))


def parts(values: list[Any]) -> Iterator[list[Any]]:
    """Yield the values in lists that are short enough for one IN (...)."""
    for start in range(0, len(values), MOST_PARAMETERS):
        yield values[start : start + MOST_PARAMETERS]
