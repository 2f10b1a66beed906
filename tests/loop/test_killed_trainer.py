"""The trainer killed at a step of a night's update: noticed, started again, and the update made exactly once."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import anyio
from chaos import differences, faults, prepared, watched

from agents.model.mapping import SharedWeights
from agents.model.snapshot import weights_of
from loop.config import load_settings
from loop.home import Home
from loop.service import Service, opened
from store import queries

NOTICED_S = 1.0
"""What is promised."""
STEP = 2
"""The step at which the trainer is killed."""


@dataclass(kw_only=True)
class Killed:
    """What was seen of a night whose trainer was killed once."""

    service: Service
    trainer: int
    lost: anyio.Event
    at: float = 0.0
    noticed_s: float = 0.0
    restored: bool = False
    """Whether the mapping held the parent's bytes, and was clean, before the update was made again."""
    first_steps: int = 0
    """How often the update was begun."""
    dead: anyio.Event = field(default_factory=anyio.Event)

    def listen(self, kind: str, subject: str, done: int, total: int) -> None:
        """Count the beginnings, and kill at the step."""
        self.first_steps += (kind, done) == ("train", 1)
        if (kind, done) == ("train", STEP) and not self.dead.is_set():
            assert STEP < total
            self.at = monotonic()
            os.kill(self.trainer, signal.SIGKILL)
            self.dead.set()

    def look(self, parent: str) -> bool:
        """Whether the mapping holds this checkpoint, clean and bit for bit."""
        shared = SharedWeights.attach(self.service.home.run_dir / "weights.bin")
        wanted = self.service.store.load_weights(parent)
        found = {name: bytes(raw.data) for name, raw in weights_of(shared).items()}
        same = found == {name: bytes(raw.data) for name, raw in wanted.items()}
        return same and (shared.holds, shared.dirty) == (parent, False)


async def killed_night(home: Home) -> Killed:
    """One night in this process, with a model server and a trainer that are processes of their own."""
    async with opened(home, load_settings(home.config_file)) as service, anyio.create_task_group() as tasks:
        await tasks.start(service.crew.run)
        tasks.start_soon(service.work)
        pid = (await service.trainer.status()).pid
        seen = Killed(service=service, trainer=pid, lost=service.crew.lost)
        service.listeners.append(seen.listen)
        with anyio.fail_after(240):
            parent = (await service.ledger.read(queries.active))["id"]
            night_id = await service.begin_night(seed=0, retry=False)
            await seen.dead.wait()
            await seen.lost.wait()
            seen.noticed_s = monotonic() - seen.at
            await service.crew.ready.wait()
            seen.restored = seen.look(parent)  # before anybody else has had a turn
            await service.finished(night_id)
        tasks.cancel_scope.cancel()
    return seen


def test_a_trainer_killed_at_a_step_is_noticed_within_a_second_and_its_update_is_made_exactly_once(
    tmp_path: Path,
) -> None:
    with watched(prepared(tmp_path)) as before, watched(before.copy(tmp_path / "calm")) as calm:
        place = before.copy(tmp_path / "killed")
        (update,) = calm.do("night")["updates"]
        assert update["verdict"] == "keep" and update["steps"] > STEP
        seen = anyio.run(killed_night, Home(place.path))
        assert seen.noticed_s < NOTICED_S
        assert seen.restored
        assert seen.first_steps == 2
        # One update, one set of steps, one candidate, and its id is that of the undisturbed night.
        found = differences(place, calm.rows())
        assert [line for line in found if not line.startswith(("events", "work"))] == []
        assert place.ask("SELECT kind, attempts FROM work WHERE attempts > 0") == [("train", 1)]
        assert faults(place) == []
