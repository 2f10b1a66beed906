"""The ledger: one SQL database that any process reads and one thread of one process writes.

Invariant: `write` commits a transaction whole or not at all, in the order of the calls. The transaction is
durable when `write` returns. Reads never wait for writes (WAL). This module knows nothing about the meaning
of a table.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.pool import NullPool, StaticPool

from corpus.errors import ConfigError
from store.files.failpoints import reach
from store.ledger.migrations import migrate

Result = TypeVar("Result")

BUSY_TIMEOUT_S = 30.0
"""Seconds that SQLite waits for another process's lock; no transaction of Nightschool takes as long."""


def now() -> str:
    """Return the present time as rows store it: ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def database_url(home: Path, configured: str = "") -> str:
    """Return the configured database URL; without one, the URL of the home's SQLite file."""
    return configured or f"sqlite:///{home / 'ledger.db'}"


class Ledger:
    """Transactions over one engine, for threads and for tasks."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self._writer = threading.Lock()
        self._lane = anyio.CapacityLimiter(1)
        migrate(self.engine)
        self._anchor = _anchor(url)

    def close(self) -> None:
        """Close every connection."""
        if self._anchor is not None:
            self._anchor.close()
        self.engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes, and commit it at the end.

        It takes the database's lock at once, so that it never has to be retried half-way.
        """
        with self._writer:
            with self.engine.begin() as connection:
                yield connection
                reach("ledger", "committing")
            reach("ledger", "committed")

    def wipe(self) -> bool:
        """Erase deleted rows from the disk; return whether that succeeded.

        SQLite keeps deleted rows in free pages and in the write-ahead log until the space is reused.
        PostgreSQL vacuums by itself, so nothing is done there.
        """
        if self.engine.dialect.name != "sqlite":
            return True
        with self._writer, closing(self.engine.raw_connection()) as raw:
            try:
                raw.cursor().execute("VACUUM")
                busy, *_ = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError:  # no space for a copy, or a reader is active
                return False
        return not busy

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection that reads; all its queries see the same state of the ledger."""
        with self.engine.connect() as connection:
            connection.info["readonly"] = True
            yield connection

    async def write(self, transaction: Callable[..., Result], *args: Any) -> Result:
        """Run `transaction(connection, *args)` in the writer's thread, commit it and return its result."""

        def commit() -> Result:
            with self.writing() as connection:
                return transaction(connection, *args)

        return await anyio.to_thread.run_sync(commit, limiter=self._lane)

    async def read(self, query: Callable[..., Result], *args: Any) -> Result:
        """Run `query(connection, *args)` in a thread, on one state of the ledger, and return its result."""

        def view() -> Result:
            with self.reading() as connection:
                return query(connection, *args)

        return await anyio.to_thread.run_sync(view)


@contextmanager
def glance(url: str) -> Iterator[Connection | None]:
    """Open a connection that reads a ledger, without creating or migrating the ledger.

    Args:
        url: The database URL. The connection is None if the URL names a SQLite file that does not exist.
    """
    place = make_url(url)
    if place.get_backend_name() == "sqlite" and not Path(place.database or "").is_file():
        yield None
        return
    engine = _engine(url)
    try:
        with engine.connect() as connection:
            connection.info["readonly"] = True
            yield connection
    finally:
        engine.dispose()


def _connected(path: str, options: dict[str, Any]) -> sqlite3.Connection:
    """Return a connection to a SQLite file; one that only reads if the disk is full or read-only.

    SQLite needs room beside the file even to read it. Without room, the file alone is read, if nothing is
    in its write-ahead log. Every connection tries first to be one that also writes.
    """
    connection: sqlite3.Connection = sqlite3.connect(path, **options)
    try:
        connection.isolation_level = None  # the driver's own BEGIN would come too late
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        file, log = Path(path).absolute(), Path(f"{path}-wal")
        if not file.is_file() or (log.exists() and log.stat().st_size):
            raise
        connection = sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True, **options)
        connection.isolation_level = None
    return connection


def _anchor(url: str) -> sqlite3.Connection | None:
    """Return an idle connection to a SQLite file, which keeps its write-ahead log; None for another database.

    The last connection that closes removes the log, and the next one would need room on the disk to make it
    again: on a full disk nothing could be read.
    """
    place = make_url(url)
    if place.get_backend_name() != "sqlite" or not place.database:
        return None
    return _connected(place.database, {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})


def _engine(url: str) -> Engine:
    """Return an engine for this database; with SQLite, commits are durable and BEGIN takes the write lock."""
    if not url.startswith("sqlite"):
        try:
            return create_engine(url)
        except ImportError as error:
            raise ConfigError(
                f"`database` needs a driver that is not installed ({error.name}): `pip install` it into this "
                "environment, or leave `database` empty for a file in the home"
            ) from error
    in_memory = make_url(url).database in (None, "", ":memory:")
    options: dict[str, Any] = {"timeout": BUSY_TIMEOUT_S}
    if in_memory:  # a second connection would open a second, empty database
        options["check_same_thread"] = False
    engine = create_engine(url, poolclass=StaticPool if in_memory else NullPool, connect_args=options)

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, where: list[str], options: dict[str, Any]) -> sqlite3.Connection:
        return _connected(where[0], options)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if connection.info.get("readonly") else "BEGIN IMMEDIATE")

    return engine
