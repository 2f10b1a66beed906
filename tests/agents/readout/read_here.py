"""The shipped model read in this process, by the trainer's own code."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from agents.model.internals import Activations, LogProb
from agents.model.steering.wire import Direction
from agents.readout.collect import Source
from agents.readout.monitor import Monitor
from agents.trainer.process.worker import pack_activations
from agents.trainer.scoring import prefix_scoring
from agents.trainer.scoring import residual_stream as stream
from agents.trainer.scoring.residual_stream import steered
from agents.trainer.wire import unpack_activations
from corpus.recipe import MODEL_DIR

LAYERS = 4


@cache
def shipped() -> tuple[Any, Any]:
    """Return the shipped model and its tokenizer, which tests must not change."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval(), AutoTokenizer.from_pretrained(MODEL_DIR)


class Here:
    """The trainer's and the server's parts of reading in one object, which counts its calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        """Tokens of every text that was run, in the order of the runs."""
        self.version = 1
        self.changes = False
        """Whether the weights change under every request."""

    async def tokenize_texts(self, texts: Sequence[str]) -> list[list[int]]:
        return [shipped()[1](text, add_special_tokens=False)["input_ids"] for text in texts]

    async def tokenize(self, conversations: Sequence[Any], *, add_generation_prompt: bool) -> list[list[int]]:
        texts = [" ".join(turn["content"] for turn in turns) for turns in conversations]
        return await self.tokenize_texts(texts)

    async def activations(
        self, texts: Sequence[Sequence[int]], layers: Sequence[int], heads: Sequence[int] = ()
    ) -> Activations:
        self.asked += [tuple(text) for text in texts]
        self.version += self.changes
        return unpack_activations(*pack_activations(stream.read(shipped()[0], texts, layers, heads)), layers)

    async def logprobs(
        self,
        items: Sequence[tuple[Sequence[int], Sequence[int]]],
        steer: Sequence[Direction] = (),
        *,
        exact: bool = True,
    ) -> list[LogProb]:
        contexts, answers = zip(*items, strict=True)
        with steered(shipped()[0], steer):
            (scored,) = prefix_scoring.scores(shipped()[0], contexts, [answers], train=False)
        return [
            LogProb(total=float(t), tokens=int(n)) for t, n in zip(scored.total, scored.tokens, strict=True)
        ]

    async def status(self) -> "Here":
        return self


def source(place: Path, here: Here, **more: str) -> Source:
    choices = {"model_digest": "m" * 64, "weights_version": "w" * 64, **more}
    return Source(model=here, trainer=here, directory=place / "readout", **choices)  # type: ignore[arg-type]


def monitor(place: Path, here: Here, digest: str, layers: int = LAYERS) -> Monitor:
    return Monitor(
        model=here,  # type: ignore[arg-type]
        trainer=here,
        directory=place / "readout",
        layers=lambda: layers,
        model_digest=digest,
    )
