"""The inference engine: one thread for users, one for batches, around one model.

A user is answered while a batch runs: one row goes to the user thread, several go to the batch thread. A
batch is cut into pieces of BATCH_ROWS in the order given, and never mixed with another request's rows.

Invariant: rows that reach a thread fit the model (lengths, vocabulary); any other is refused with a sentence
before. Work stops within a token when its client has gone or the server is stopping. This module knows
nothing about routes.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from starlette.requests import Request

from agents.model import requests
from agents.model.embedded.activation_steering import Offsets, Steering
from agents.model.embedded.chat import ChatTokenizer
from agents.model.embedded.sampling import Generation, GenerationRequest, Sampler
from agents.model.requests import BATCH_ROWS, SamplingSettings
from agents.model.weights.shared import SharedWeights
from corpus.aliases import Json

T = TypeVar("T")


class SerialExecutor:
    """One thread that runs one function after another."""

    def __init__(self, name: str, threads: int) -> None:
        """Start a thread whose torch operations use `threads` threads."""
        # In some builds of torch this number belongs to the calling thread.
        self._executor = ThreadPoolExecutor(1, name, initializer=lambda: torch.set_num_threads(threads))
        self.running = 0
        """Requests that wait or run."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run the work on the thread, after the work that was submitted before."""
        self.running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self.running -= 1


@dataclass(kw_only=True)
class Engine:
    """The served model, with its tokenizer, weights and threads."""

    name: str
    tokenizer: ChatTokenizer
    sampler: Sampler
    weights: SharedWeights
    context: int
    """Most tokens of prompt and answer together."""
    vocab_size: int
    end_ids: tuple[int, ...]
    threads: int
    steering: Steering
    defaults: Json = field(default_factory=dict)
    """Sampling settings that the model comes with, for users' requests; batches name their own."""
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.users, self.batches = (
            SerialExecutor("user", self.threads),
            SerialExecutor("batch", self.threads),
        )

    def request(
        self, tokens: Sequence[int], seed: int, settings: SamplingSettings, offsets: Offsets | None
    ) -> GenerationRequest:
        """Return the request for one row; raise `UsageError` when its lengths do not fit."""
        max_tokens = requests.answer_limit(
            tokens, settings.max_tokens, context=self.context, vocab_size=self.vocab_size
        )
        return GenerationRequest(
            tokens=tokens,
            seed=seed,
            temperature=settings.temperature,
            max_tokens=max_tokens,
            top_p=settings.top_p,
            stop=settings.stop,
            offsets=offsets,
        )

    async def generate(self, client: Request, rows: Sequence[GenerationRequest]) -> tuple[Generation, ...]:
        """Answer the rows on the thread that fits their number, until the client hangs up."""
        gone = threading.Event()
        watcher = asyncio.create_task(_set_when_gone(client, gone))
        executor = self.users if len(rows) == 1 else self.batches
        try:
            return await executor.run(
                lambda: self._in_pieces(rows, lambda: gone.is_set() or self.stopping.is_set())
            )
        finally:
            watcher.cancel()

    def _in_pieces(
        self, rows: Sequence[GenerationRequest], cancelled: Callable[[], bool]
    ) -> tuple[Generation, ...]:
        """Answer the rows in pieces of BATCH_ROWS, in order."""
        answers: list[Generation] = []
        for first in range(0, len(rows), BATCH_ROWS):
            answers += self.sampler.generate(rows[first : first + BATCH_ROWS], cancelled)
        return tuple(answers)

    async def stream(self, row: GenerationRequest) -> AsyncIterator[str | Generation]:
        """Yield one row's text in pieces as the user thread makes them, then its whole answer."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | Generation | None]()
        gone = threading.Event()

        def work() -> None:
            try:
                for piece in self.sampler.stream(row, lambda: gone.is_set() or self.stopping.is_set()):
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
            finally:
                loop.call_soon_threadsafe(pieces.put_nowait, None)

        job = asyncio.create_task(self.users.run(work))
        # A client that hangs up leaves a `Cancelled` that nobody awaits: asyncio logs it unless it is read.
        job.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await job
        finally:
            # When the client closes the stream early, the thread must not generate the rest.
            gone.set()


async def _set_when_gone(client: Request, gone: threading.Event) -> None:
    """Set the event when the client hangs up."""
    while (await client.receive())["type"] != "http.disconnect":
        pass
    gone.set()
