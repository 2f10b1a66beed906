"""The inference engine: one thread for users, one for batches, around one model.

A row is one prompt and its answer. A request for one row goes to the user thread, a request for several rows
to the batch thread, so a user is answered while a batch runs. The engine cuts a batch into pieces of
BATCH_ROWS rows, in the order given, and never mixes them with another request's rows.

Invariant: a row that does not fit the model (length, vocabulary) is refused with a sentence before it reaches
a thread. Work stops within a token when its client has gone or the server is stopping. This module knows
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
    """An executor with one thread, which runs one function after another."""

    def __init__(self, name: str, threads: int) -> None:
        """Create the executor; torch operations in its thread use `threads` threads."""
        # In some builds of torch this number belongs to the calling thread.
        self._executor = ThreadPoolExecutor(1, name, initializer=lambda: torch.set_num_threads(threads))
        self.running = 0
        """Requests that wait or run."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` on the thread, after all earlier work, and return its result."""
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
    """Tokens that end an answer."""
    threads: int
    """Threads inside one torch operation."""
    steering: Steering
    defaults: Json = field(default_factory=dict)
    """The model's own sampling settings, for users' requests; a batch names its own."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the server stops; running work then ends."""

    def __post_init__(self) -> None:
        self.users, self.batches = (
            SerialExecutor("user", self.threads),
            SerialExecutor("batch", self.threads),
        )

    def request(
        self,
        tokens: Sequence[int],
        seed: int,
        settings: SamplingSettings,
        offsets: Offsets | None,
        end_ids: Sequence[int] = (),
    ) -> GenerationRequest:
        """Return the sampler's request for one row; raise `UsageError` when the row does not fit the model.

        Args:
            tokens: The prompt.
            seed: The seed of the answer.
            settings: The sampling settings, whose own seed is ignored.
            offsets: The steering of the row; None for none.
            end_ids: Tokens that end the answer, beside the model's own.
        """
        max_tokens = requests.answer_limit(
            tokens, settings.max_tokens, context=self.context, vocab_size=self.vocab_size
        )
        return GenerationRequest(
            tokens=tokens,
            seed=seed,
            temperature=settings.temperature,
            max_tokens=max_tokens,
            top_p=settings.top_p,
            min_p=settings.min_p,
            end_ids=frozenset(end_ids),
            stop=settings.stop,
            offsets=offsets,
        )

    async def generate(self, client: Request, rows: Sequence[GenerationRequest]) -> tuple[Generation, ...]:
        """Return the answers to the rows; work on them stops if the client disconnects.

        One row runs on the user thread, several rows run on the batch thread.
        """
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
        """Return the answers to the rows, which are generated in pieces of BATCH_ROWS, in order."""
        answers: list[Generation] = []
        for first in range(0, len(rows), BATCH_ROWS):
            answers += self.sampler.generate(rows[first : first + BATCH_ROWS], cancelled)
        return tuple(answers)

    async def stream(self, row: GenerationRequest) -> AsyncIterator[str | Generation]:
        """Yield the text of one row's answer in pieces as the user thread generates it, then the answer."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | Generation | None]()
        gone = threading.Event()

        def work() -> None:
            try:
                for piece in self.sampler.stream(row, lambda: gone.is_set() or self.stopping.is_set()):
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
            finally:
                loop.call_soon_threadsafe(pieces.put_nowait, None)

        job = asyncio.create_task(self.users.run(work))
        # A client that disconnects leaves a `Cancelled` that nobody awaits. asyncio logs such an exception
        # unless it is read.
        job.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await job
        finally:
            # When the client closes the stream early, the thread must not generate the rest.
            gone.set()


async def _set_when_gone(client: Request, gone: threading.Event) -> None:
    """Set the event `gone` when the client disconnects."""
    while (await client.receive())["type"] != "http.disconnect":
        pass
    gone.set()
