"""Parts that bench/vllm.py and tests/vllm/test_training.py share: clients of a vLLM, and a trainer.

Invariant: whatever is not a whole answer counts as an error, and nothing is asked again. The trainer is the
product's own process and client, on the mapping that the vLLM serves; afterwards the weights are those from
before. Knows no service: it gives the trainer's orders itself.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import torch

from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.shared import SharedWeights
from agents.trainer.client import TrainerClient
from agents.trainer.messages import Example, Settings, StepReport, TrainRequest
from corpus.errors import IntegrityFault, UpdateCancelled
from corpus.recipe import MODEL_DIR
from corpus.world.requests import KINDS, draw, write
from store.home import Home

CLIENTS = 8
TOKENS = 24
"""Of each answer."""
STEPS = 60
"""Of one update."""
WORDS = (3, 256)
"""Range of token ids that any of our tokenizers has."""


@dataclass(kw_only=True)
class Load:
    """The answers that the clients received."""

    answers: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    """Seconds until an answer's first token."""
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers."""
        return self.answers / self.seconds


async def load_from_clients(url: str, *, during: Callable[[], bool], clients: int = CLIENTS) -> Load:
    """Have the clients send one request after the other while `during` returns true."""
    load, began = Load(), time.monotonic()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        async with anyio.create_task_group() as tasks:
            for number in range(clients):
                tasks.start_soon(_client, http, model, number, during, load)
    load.seconds = time.monotonic() - began
    return load


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Return a function that returns true until the time has passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


async def _client(
    http: httpx.AsyncClient, model: str, number: int, during: Callable[[], bool], load: Load
) -> None:
    rng = random.Random(number)
    while during():
        question = write(draw(rng.choice(list(KINDS)), rng), rng)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "stream": True,
            "ignore_eos": True,
        }
        body |= {"max_tokens": TOKENS, "stream_options": {"include_usage": True}}
        try:
            await _answer(http, body, load)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            load.errors.append(f"{type(error).__name__}: {error}")


async def _answer(http: httpx.AsyncClient, body: dict[str, object], load: Load) -> None:
    """Read one answer to its end."""
    began, first, last, used = time.monotonic(), 0.0, "", 0
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line:
                first = first or time.monotonic() - began
                last, before = line, last
    if last != "data: [DONE]":
        raise ValueError(f"an answer ended with {last!r}")
    used = json.loads(before.removeprefix("data: "))["usage"]["completion_tokens"]
    if used != TOKENS:
        raise ValueError(f"an answer has {used} tokens")
    load.answers += 1
    load.tokens += used
    load.first_s.append(first)


def larger_model(directory: Path) -> Path:
    """Write a Qwen3 of 38 million random parameters with the embedded model's tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging as transformers_logging

    shutil.copytree(
        MODEL_DIR, directory, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "README.md")
    )
    torch.manual_seed(0)
    sizes = {"vocab_size": 1024, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": True}
    config = Qwen3Config(**sizes, **heads, max_position_embeddings=512, eos_token_id=2, pad_token_id=0)
    transformers_logging.disable_progress_bar()
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return directory


class Alongside:
    """A trainer alongside a vLLM, and the weights that both use."""

    def __init__(self, client: TrainerClient, shared: SharedWeights, parent: str) -> None:
        self.client = client
        self.shared = shared
        self.parent = parent
        """The checkpoint of the weights as they were."""

    def update(
        self, *, pairs: int, steps: int = STEPS, lr: float = 1e-5, micro_batch: int = 0
    ) -> TrainRequest:
        """Return an update of so many steps over the same pairs: 48 tokens of context, answers of 16."""
        rng = random.Random(1)

        def text(length: int) -> list[int]:
            return [rng.randrange(*WORDS) for _ in range(length)]

        rows = [Example(context=text(48), chosen=text(16), rejected=text(16)) for _ in range(pairs)]
        settings = Settings(lr=lr, batch_size=pairs, epochs=steps, norm_cap=1.0, micro_batch=micro_batch)
        return TrainRequest(objective="orpo", settings=settings, seed=1, parent=self.parent, examples=rows)

    async def restored(self) -> None:
        """Restore the weights."""
        await self.client.rollback(self.parent, settled=True)

    async def load_while_training(self, url: str, update: TrainRequest, seconds: float) -> tuple[Load, int]:
        """Repeat the update while the clients ask; return what they received, and the number of steps."""
        steps_made, done, begun = 0, False, anyio.Event()

        def step(report: StepReport) -> None:
            nonlocal steps_made
            steps_made += 1
            begun.set()

        async def train() -> None:
            try:
                while not done:
                    await self.client.train(update, step)
            except UpdateCancelled:
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(train)
            await begun.wait()
            before = steps_made
            load = await load_from_clients(url, during=for_seconds(seconds))
            steps, done = steps_made - before, True
            await self.client.cancel("measured")
        await self.restored()
        return load, steps


@contextmanager
def trainer(home: Home, model: Path, place: Path, *, threads: int = 1) -> Iterator[Path]:
    """Run a trainer process on the weights that this home's vLLM serves; its files are in `place`."""
    place.mkdir(mode=0o700, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "agents.trainer.process.main",
        "--run-dir",
        str(place),
        "--model",
        str(model),
    ]
    command += ["--mapping", str(home.served_dir), "--checkpoints", str(place / "checkpoints")]
    process = subprocess.Popen([*command, "--threads", str(threads)])
    try:
        yield place
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def alongside(home: Home, place: Path) -> AsyncIterator[Alongside]:
    """Yield the ready trainer in `place`; restore the weights at the end."""
    if reason := ServedDirectory(home.served_dir).refused:
        raise IntegrityFault(f"this vLLM cannot be trained: {reason}")
    async with TrainerClient(place) as client:
        first = await client.checkpoint(None, {"cursor": 0})
        shared = SharedWeights.attach(ServedDirectory(home.served_dir).weights_file)
        training = Alongside(client, shared, first.id)
        await training.restored()
        try:
            yield training
        finally:
            with anyio.CancelScope(shield=True):
                await training.restored()


def sum_of(url: str, tokens: Sequence[int], salt: str) -> float:
    """Return the log-probability (nats) of these tokens under the served weights, without the first."""
    body = {"prompt": list(tokens), "max_tokens": 1, "prompt_logprobs": 0, "cache_salt": salt}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        body["model"] = http.get("/v1/models").json()["data"][0]["id"]
        answer = http.post("/v1/completions", json=body)
    logprobs = answer.raise_for_status().json()["choices"][0]["prompt_logprobs"]
    pairs = zip(tokens[1:], logprobs[1:], strict=True)
    return sum(candidates[str(token)]["logprob"] for token, candidates in pairs)
