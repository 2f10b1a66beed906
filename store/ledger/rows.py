"""Rows by many values of one column, however many there are.

Invariant: reads only, in the order of the table's primary key. Knows no table's meaning.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, Table, select

from store.conversations.conversations import MOST_PARAMETERS


def among(connection: Connection, table: Table, column: str, values: Iterable[Any]) -> list[dict[str, Any]]:
    """The rows whose column has one of these values, in the order of the table's primary key."""
    wanted = sorted(values)
    found: list[dict[str, Any]] = []
    for start in range(0, len(wanted), MOST_PARAMETERS):
        query = select(table).where(table.c[column].in_(wanted[start : start + MOST_PARAMETERS]))
        found += rows_of(connection, query)
    keys = [key.name for key in table.primary_key.columns]
    return sorted(found, key=lambda row: [row[key] for key in keys])


def delete_among(connection: Connection, table: Table, column: str, values: Iterable[Any]) -> None:
    """Delete the rows whose column has one of these values."""
    wanted = sorted(values)
    for start in range(0, len(wanted), MOST_PARAMETERS):
        part = wanted[start : start + MOST_PARAMETERS]
        connection.execute(table.delete().where(table.c[column].in_(part)))


def rows_of(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    """The rows of a query, by column."""
    return [dict(row) for row in connection.execute(query).mappings()]
