"""A home with a running trainer, and the small update that tests request from it."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import torch

from agents.model.weights.shared import SharedWeights
from agents.trainer.client import TrainerClient
from agents.trainer.messages import Example, Settings, TrainRequest
from store.checkpoints.store import CheckpointStore

FIRST = {"cursor": 0, "seed": 5}
SETTINGS = Settings(lr=1e-2, batch_size=4, beta=0.2, rank=8, norm_cap=0.5)
LONG = replace(SETTINGS, epochs=400)
"""An update that is not over before it is interrupted."""


def examples(count: int = 10) -> list[Example]:
    draw = random.Random(3)
    rows = [[[draw.randrange(96) for _ in range(draw.randint(1, 9))] for _ in range(3)] for _ in range(count)]
    return [
        Example(context=c, chosen=w, rejected=r, weight=0.5 + i % 2 / 2) for i, (c, w, r) in enumerate(rows)
    ]


def request(parent: str, **changes: Any) -> TrainRequest:
    plain = TrainRequest(objective="orpo", settings=SETTINGS, seed=7, parent=parent, examples=examples())
    return replace(plain, **changes)


class Home:
    """A home with a running trainer and its first checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shared = SharedWeights.attach(path / "run" / "weights.bin")
        self.store = CheckpointStore(path / "checkpoints")
        self.first = ""
        self.log = path / "no log"
        """What the trainer wrote to its standard error."""

    def call(self, conversation: Callable[[TrainerClient], Any], **patience: float) -> Any:
        """Run a conversation with the trainer."""

        async def run() -> Any:
            async with TrainerClient(self.path / "run", **{"beat": 0.2, **patience}) as client:
                with anyio.fail_after(90):
                    return await conversation(client)

        return anyio.run(run)

    def ask(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Send the trainer one request."""
        return self.call(lambda client: getattr(client, verb)(*arguments, **options))

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the served weights."""
        return {name: tensor.clone() for name, tensor in self.shared.tensors.items()}

    def serves(self, weights: dict[str, torch.Tensor]) -> bool:
        """Return whether the shared weights equal these bit for bit."""
        return all(torch.equal(weights[name], tensor) for name, tensor in self.shared.tensors.items())
