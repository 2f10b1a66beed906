"""The model being served: its two lanes, and answers to rows of tokens.

One thread a lane does the work, so that a user is answered while a batch runs: one row goes to the user lane,
many go to the batch lane. A batch is cut into pieces of BATCH_ROWS in the order given and never mixed with
anything else.

Invariant: rows that reach a lane fit the model (lengths, vocabulary); whatever does not is refused with a
sentence before. Work stops within a token when its asker has gone or the server is stopping. Knows no route.
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

T = TypeVar("T")


class SerialExecutor:
    """One thread that does one thing after another."""

    def __init__(self, name: str, threads: int) -> None:
        # The number of threads inside an operation is the calling thread's own in some builds of torch.
        self._executor = ThreadPoolExecutor(1, name, initializer=lambda: torch.set_num_threads(threads))
        self.running = 0
        """Requests that wait or run."""

    async def do(self, work: Callable[[], T]) -> T:
        """Run the work on the thread, when its turn comes."""
        self.running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self.running -= 1


@dataclass(kw_only=True)
class Engine:
    """The model being served, and what answers need besides."""

    name: str
    text: ChatTokenizer
    sampler: Sampler
    weights: SharedWeights
    context: int
    """Most tokens of prompt and answer together."""
    vocab_size: int
    end_ids: tuple[int, ...]
    threads: int
    steering: Steering
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.users, self.batches = SerialExecutor("user", self.threads), SerialExecutor("batch", self.threads)

    def ask(
        self, tokens: Sequence[int], seed: int, chosen: SamplingSettings, offsets: Offsets | None
    ) -> GenerationRequest:
        """One row, its lengths checked."""
        wanted = requests.answer_limit(
            tokens, chosen.max_tokens, context=self.context, vocab_size=self.vocab_size
        )
        return GenerationRequest(
            tokens=tokens,
            seed=seed,
            temperature=chosen.temperature,
            max_tokens=wanted,
            top_p=chosen.top_p,
            stop=chosen.stop,
            offsets=offsets,
        )

    async def answers(self, request: Request, asks: Sequence[GenerationRequest]) -> tuple[Generation, ...]:
        """Answers to the rows, from the lane that fits their number."""
        gone = threading.Event()
        watcher = asyncio.create_task(_until_gone(request, gone))
        lane = self.users if len(asks) == 1 else self.batches
        try:
            return await lane.do(lambda: self._all(asks, lambda: gone.is_set() or self.stopping.is_set()))
        finally:
            watcher.cancel()

    def _all(
        self, asks: Sequence[GenerationRequest], cancelled: Callable[[], bool]
    ) -> tuple[Generation, ...]:
        """The rows in pieces of BATCH_ROWS, in order."""
        answers: list[Generation] = []
        for first in range(0, len(asks), BATCH_ROWS):
            answers += self.sampler.answer(asks[first : first + BATCH_ROWS], cancelled)
        return tuple(answers)

    async def stream(self, ask: GenerationRequest) -> AsyncIterator[str | Generation]:
        """One row's text in pieces as it comes from the user lane, then its whole answer."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | Generation | None]()
        gone = threading.Event()

        def work() -> None:
            try:
                for piece in self.sampler.stream(ask, lambda: gone.is_set() or self.stopping.is_set()):
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
            finally:
                loop.call_soon_threadsafe(pieces.put_nowait, None)

        job = asyncio.create_task(self.users.do(work))
        # Whoever hangs up leaves a `Cancelled` that nobody awaits: look at it, or asyncio complains in the log.
        job.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await job
        finally:
            # Closed early by a client that hung up, the lane must not go on for nobody.
            gone.set()


async def _until_gone(request: Request, gone: threading.Event) -> None:
    """Set the event when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()
