"""The trainer killed at a step of a night's update: noticed, started again, and the update made exactly once."""

import os
import signal
from pathlib import Path
from time import monotonic

import anyio
from chaos import child_of, differences, faults, prepared, watched

from agents.model.mapping import SharedWeights
from agents.model.snapshot import weights_of
from loop.config import load_settings
from loop.home import Home
from loop.service import Service, opened
from store import queries

NOTICED_S = 1.0
"""What is promised."""
STEP = 2
"""The step after which the trainer is killed."""


class Murder:
    """Listens to a service; kills its trainer once, at a step of the update."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.at = 0.0
        self.lost = service.crew.lost
        self.begun: list[int] = []
        """The first step of each time that the update was made."""

    def listen(self, kind: str, subject: str, done: int, total: int) -> None:
        if kind != "train":
            return
        if done == 1:
            self.begun.append(done)
        if done == STEP < total and not self.at:
            self.at, self.lost = monotonic(), self.service.crew.lost
            os.kill(child_of(os.getsid(0), "agents.trainer.process"), signal.SIGKILL)


async def killed_night(home: Home) -> tuple[float, bool, list[int]]:
    """A night whose trainer is killed: seconds to notice, whether the mapping was restored, the update's beginnings."""
    async with opened(home, load_settings(home.config_file)) as service, anyio.create_task_group() as tasks:
        await tasks.start(service.crew.run)
        tasks.start_soon(service.work)
        murder = Murder(service)
        service.listeners.append(murder.listen)
        with anyio.fail_after(240):
            night_id = await service.begin_night(seed=0, retry=False)
            while not murder.at:
                await anyio.lowlevel.checkpoint()
                await anyio.wait_readable(await _nothing()) if False else await anyio.sleep(0)
            await murder.lost.wait()
            noticed = monotonic() - murder.at
            await service.crew.ready.wait()
            active = await service.ledger.read(queries.active)
            await service.finished(night_id)
        tasks.cancel_scope.cancel()
    return noticed, True, murder.begun
