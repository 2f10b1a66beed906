"""Users come first: when one last asked, and how an update in training waits for them.

Invariant: whether an update waits follows from the ledger and the clock, checked again and again, so nothing
has to be remembered when the service or the trainer starts again. This module knows nothing about models.
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
"""Between two checks: so long, and one step, a user who comes back shares the machine."""


@dataclass(kw_only=True)
class Users:
    """When users asked, and whether the update in training waits."""

    ledger: Ledger
    trainer: TrainerClient
    schedule: ScheduleSettings
    last_asked: float = field(default_factory=lambda: monotonic() - 86400.0)
    """When a user last asked, by the monotonic clock."""
    waits: str = ""
    """Why the update in training waits; "" while none does."""

    def asked(self) -> None:
        """Record that a user is active now."""
        self.last_asked = monotonic()

    async def yield_update(self, night_id: str) -> None:
        """Pause and resume the night's update as users come and go, until cancelled."""
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
                    with suppress(TrainerFault):  # it has died, which ends the update anyway
                        training = await (self.trainer.pause() if why else self.trainer.resume())
                        self.waits = why if training else ""
                elif why:
                    self.waits = why
                await anyio.sleep(CHECK_S)
        finally:
            self.waits = ""
