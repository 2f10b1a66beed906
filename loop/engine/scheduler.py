"""The loop that begins a night when one is due, and the facts that it gives to the schedule.

Invariant: a jump of the clock begins at most one night, because the next night needs new lessons. The rules
for when a night is due are in `schedule`.
"""

from datetime import UTC, datetime, timedelta
from math import inf
from time import monotonic

import anyio
import structlog
from sqlalchemy import Connection, func, select

from loop.engine.schedule import ScheduleFacts, ScheduleRules, why_not
from loop.engine.service import Service
from loop.night.propose import count_teaching
from store import graph, queries
from store.ledger import schema

CHECK_S = 1.0
"""Seconds between two checks. A check makes two small queries, and two more where the program may accept
lessons."""
RETRY_S = 3600.0
"""Seconds until the next night if a night made no update (say, for a full disk) and nothing new has come."""

log = structlog.get_logger()


async def keep_schedule(service: Service) -> None:
    """Begin a night whenever one is due, until cancelled."""
    logged, tried, tried_at, heard = "", None, 0.0, -1
    while True:
        if await _may_accept(service):
            if heard != (heard := await service.ledger.read(_signals)):
                await service.accepting.accept_by_itself()
        reason = await next_update_reason(service)
        if not reason and tried == await service.ledger.read(_inputs) and monotonic() - tried_at < RETRY_S:
            reason = "nothing new since the last night, which made no update"
        if not reason:
            night_id = await service.begin_night(seed=service.settings.seed, retry=False)
            log.info("night begins", night=night_id)
            await service.worker.wait_closed(night_id)
            night = await service.ledger.read(queries.night, night_id)
            log.info("night ended", night=night_id, reasons=night.reasons)
            tried, tried_at = await service.ledger.read(_inputs), monotonic()
        elif reason != logged:
            log.info("no night now", reason=reason)
        logged = reason
        await anyio.sleep(CHECK_S)


async def _may_accept(service: Service) -> bool:
    """Return whether the program may accept lessons now."""
    if service.settings.lessons.accept == "ask" or service.health.fault:
        return False
    return await service.ledger.read(queries.running_night) is None


async def next_update_reason(service: Service) -> str:
    """Return the reason why no night begins now; "" if one is due."""
    if service.health.fault or service.processes.waits:
        return service.health.fault or service.processes.waits
    night = await service.ledger.read(queries.running_night)
    if night is not None:
        waits = f"; its update waits: {service.users.waits}" if service.users.waits else ""
        return f"night {night.id} is running{waits}"
    return why_not(await service.ledger.read(_facts, service), _rules(service))


def _rules(service: Service) -> ScheduleRules:
    """Return the rules of the schedule from the home's settings."""
    schedule = service.settings.schedule
    return ScheduleRules(
        windows=schedule.windows,
        idle_s=schedule.idle_minutes * 60,
        min_lessons=schedule.min_lessons,
        min_pairs=service.settings.pairs.minimum,
        settle_s=schedule.settle_seconds,
        max_wait_s=schedule.max_wait_hours * 3600,
        max_per_day=schedule.max_per_day,
    )


def _facts(connection: Connection, service: Service) -> ScheduleFacts:
    """Return the facts of this moment, from the ledger, the clock and the users' activity."""
    lessons = [signal for signal, _ in graph.new_lessons(connection, queries.cursor(connection))]
    ages = [_age_s(signal.at) for signal in lessons]
    return ScheduleFacts(
        clock=datetime.now().time(),
        paused=queries.is_paused(connection),
        training_enabled=service.settings.trains,
        lessons=len(lessons),
        pairs=count_teaching(service.context, queries.pairs(connection, "new")),
        since_last_lesson_s=min(ages, default=inf),
        since_first_lesson_s=max(ages, default=0.0),
        idle_s=monotonic() - service.users.last_asked,
        nights_today=queries.nights_since(connection, datetime.now(UTC) - timedelta(days=1)),
    )


def _inputs(connection: Connection) -> tuple[int, int]:
    """Return the id of the newest turn and the number of new pairs, to see whether there is anything new."""
    return queries.cursor(connection), len(queries.pairs(connection, "new"))


def _signals(connection: Connection) -> int:
    """Return the number of signals, to see whether there are new complaints."""
    return int(connection.execute(select(func.count()).select_from(schema.signals)).scalar_one())


def _age_s(at: str) -> float:
    """Return the seconds since a time, given in ISO 8601; infinity if the time is in the future.

    A time in the future means that the clock was set back.
    """
    age = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    return age if age >= 0 else float("inf")
