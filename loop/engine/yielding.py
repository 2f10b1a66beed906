"""The record of users' activity, and the pause of an update in training while users are active.

Invariant: whether an update waits is computed again and again from the ledger and the clock. So nothing has
to be restored when the service or the trainer restarts. This module knows nothing about models.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import anyio

from agents.trainer.client import TrainerClient
from corpus.errors import TrainerFault
from loop.config import ScheduleSettings
from loop.engine.schedule import why_wait
from store import queries
from store.ledger.db import Ledger

CHECK_S = 0.2
"""Seconds between two checks. A user who comes back shares the machine for this long and one more step."""


@dataclass(kw_only=True)
class Users:
    """The time of the users' last activity, and the reason for which the update in training waits."""

    ledger: Ledger
    trainer: TrainerClient
    schedule: ScheduleSettings
    last_asked: float = field(default_factory=lambda: monotonic() - 86400.0)
    """When a user was last active, by the monotonic clock; a day ago if none was since the start."""
    waits: str = ""
    """The reason why the update in training waits; "" while no update waits."""

    def asked(self) -> None:
        """Record that a user is active now."""
        self.last_asked = monotonic()

    async def yield_update(self, night_id: str) -> None:
        """Pause the night's update while users are active, and resume it afterwards, until cancelled."""
        yielded, before = 0.0, monotonic()
        try:
            while True:
                paused, at = await self.ledger.read(queries.paused_during, night_id), monotonic()
                if self.waits and not paused:
                    yielded += at - before
                before = at
                why = why_wait(
                    paused=paused,
                    since_asked_s=at - self.last_asked,
                    yield_s=self.schedule.yield_seconds,
                    yielded_s=yielded,
                    max_yield_s=self.schedule.max_yield_minutes * 60,
                )
                if bool(why) != bool(self.waits):
                    with suppress(TrainerFault):  # the trainer has died, which ends the update anyway
                        training = await (self.trainer.pause() if why else self.trainer.resume())
                        self.waits = why if training else ""
                elif why:
                    self.waits = why
                await anyio.sleep(CHECK_S)
        finally:
            self.waits = ""
