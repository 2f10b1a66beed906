"""The facts that the schedule goes by, gathered from the ledger and the clocks; and the loop that acts on them."""

from datetime import UTC, datetime, timedelta
from math import inf
from time import monotonic

import anyio
import structlog
from sqlalchemy import Connection

from loop.engine.schedule import Rules, Situation, why_not
from loop.engine.service import Service
from loop.night.propose import count_teaching
from store import graph, queries

CHECK_S = 1.0
"""Between two looks; a look costs two small queries."""

AGAIN_S = 3600.0
"""Until a night that could not make its update (no room on the disk, say) is tried again with nothing new."""

log = structlog.get_logger()


async def keep_schedule(service: Service) -> None:
    """Begin a night whenever one is due. A clock that jumps begins one at most: the next needs new lessons."""
    last, tried, tried_at = "", None, 0.0
    while True:
        reason = await next_update_reason(service)
        if not reason and tried == await service.ledger.read(_heard) and monotonic() - tried_at < AGAIN_S:
            reason = "nothing new since the last night, which made no update"
        if not reason:
            night_id = await service.begin_night(seed=service.settings.seed, retry=False)
            log.info("night begins", night=night_id)
            await service.worker.wait_closed(night_id)
            night = await service.ledger.read(queries.night, night_id)
            log.info("night ended", night=night_id, reasons=night.reasons)
            tried, tried_at = await service.ledger.read(_heard), monotonic()
        elif reason != last:
            log.info("no night now", reason=reason)
        last = reason
        await anyio.sleep(CHECK_S)


async def next_update_reason(service: Service) -> str:
    """Why no night is due now; "" when one is."""
    if service.processes.waits:
        return service.processes.waits
    night = await service.ledger.read(queries.running_night)
    if night is not None:
        waits = f"; its update waits: {service.users.waits}" if service.users.waits else ""
        return f"night {night['id']} is running{waits}"
    situation = await service.ledger.read(_situation, service)
    return why_not(situation, _rules(service))


def _rules(service: Service) -> Rules:
    schedule = service.settings.schedule
    return Rules(
        windows=schedule.windows,
        idle_s=schedule.idle_minutes * 60,
        min_lessons=schedule.min_lessons,
        min_pairs=service.settings.pairs.minimum,
        settle_s=schedule.settle_seconds,
        max_wait_s=schedule.max_wait_hours * 3600,
        max_per_day=schedule.max_per_day,
    )


def _situation(connection: Connection, service: Service) -> Situation:
    lessons = [signal for signal, _ in graph.new_lessons(connection, queries.cursor(connection))]
    ages = [_age(signal.at) for signal in lessons]
    return Situation(
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


def _heard(connection: Connection) -> tuple[int, int]:
    """What there is to learn from: the newest turn, and the pairs that wait."""
    return queries.cursor(connection), len(queries.pairs(connection, "new"))


def _age(at: str) -> float:
    """Seconds since then; a time to come is a clock that was set back, and no reason to wait for it."""
    age = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    return age if age >= 0 else float("inf")
