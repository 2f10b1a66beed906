"""What keeps a service from its nights: a ledger that cannot be written, from when until it can.

Invariant: answers do not depend on the ledger, so no fault of the ledger ends the service. A task that meets
one is begun again when a transaction has been committed as a probe. Only faults of the database or its disk
count: an error that only a bug can cause ends the service as before.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError, ProgrammingError

from store.ledger import meta
from store.ledger.db import Ledger, now

RETRY_S = 1.0
"""Seconds between two attempts to write the ledger."""
PROBE = "probed"
"""Key of the row of `meta` that a probe writes."""

log = structlog.get_logger()


def ledger_fault(error: BaseException) -> str:
    """Return what is wrong with the database or its disk; "" if an error has another cause.

    Args:
        error: An error, or a group of which every error has to be a fault of the ledger.
    """
    if isinstance(error, BaseExceptionGroup):
        faults = [ledger_fault(one) for one in error.exceptions]
        return faults[0] if all(faults) else ""
    if isinstance(error, IntegrityError | ProgrammingError | DataError):
        return ""
    return str(error.orig or error) if isinstance(error, DatabaseError | InterfaceError) else ""


@dataclass(kw_only=True)
class Health:
    """The state of a service's ledger."""

    ledger: Ledger
    fault: str = ""
    """Why the ledger cannot be written now, for the user; "" while it can."""
    _logged: str = ""
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work until it returns; after a fault of the ledger, begin it again when that is over."""
        while True:
            try:
                return await work()
            except Exception as error:
                if not (fault := ledger_fault(error)):
                    raise
                self.report(fault)
            await self.recovered()

    async def attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work that may be left out while the ledger has a fault."""
        try:
            await work()
        except Exception as error:
            if not (fault := ledger_fault(error)):
                raise
            self.report(fault)

    def report(self, fault: str) -> None:
        """Record that the ledger cannot be written, and log it once."""
        self.fault = (
            f"the ledger cannot be written ({fault}): nights and the reading of logs wait, answers go on. "
            "Is the disk full?"
        )
        if fault != self._logged:
            log.warning("the ledger cannot be written", reason=fault)
        self._logged = fault

    async def recovered(self) -> None:
        """Wait until a transaction can be committed."""
        async with self._lock:
            while True:
                await anyio.sleep(RETRY_S)
                try:
                    await self.ledger.write(_probe)
                except Exception as error:
                    if not (fault := ledger_fault(error)):
                        raise
                    self.report(fault)
                    continue
                if self.fault:
                    log.info("the ledger can be written again")
                self.fault = self._logged = ""
                return


def _probe(connection: Connection) -> None:
    """Write a row, so that the commit needs the disk."""
    meta.put(connection, PROBE, now())
