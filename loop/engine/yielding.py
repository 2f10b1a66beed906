"""Beside an update that is being trained: it waits while the home is paused, or while a user is there.

Invariant: whether it waits follows from the ledger and the clock, looked at again and again, so that nothing has
to be remembered when the service or the trainer is started again. Knows no model.
"""

from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

import anyio

from corpus.errors import TrainerFault
from loop.engine.schedule import why_wait
from store import queries

if TYPE_CHECKING:
    from loop.engine.worker import Service

LOOK_S = 0.2
"""Between two looks: a user who comes back shares the machine with one step and so long."""


async def attend(service: "Service", night_id: str) -> None:
    """Have the night's update wait and go on, as it should, until cancelled."""
    schedule, yielded, before = service.settings.schedule, 0.0, monotonic()
    try:
        while True:
            paused, at = await service.ledger.read(queries.paused_during, night_id), monotonic()
            if service.waits and not paused:
                yielded += at - before
            before = at
            why = why_wait(
                paused=paused,
                since_asked_s=at - service.last_asked,
                yield_s=schedule.yield_seconds,
                yielded_s=yielded,
                max_yield_s=schedule.max_yield_minutes * 60,
            )
            if bool(why) != bool(service.waits):
                with suppress(TrainerFault):  # it has died, and whoever waits for the update will hear of it
                    there = await (service.trainer.pause() if why else service.trainer.resume())
                    service.waits = why if there else ""
            elif why:
                service.waits = why
            await anyio.sleep(LOOK_S)
    finally:
        service.waits = ""
