"""The inference engine: one thread that runs the batch of all rows around one model.

Every request's rows go into the same running batch. Those of a user go first; those of a batch request fill
what space is left in a pass.

Invariant: a row that does not fit the model (length, vocabulary) is refused with a sentence before it
reaches the thread. Work stops within a pass when its client has gone or the server is stopping, and an
error in a pass ends the rows that run, never the thread. This module knows nothing about routes.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from starlette.requests import Request

from agents.model import requests
from agents.model.embedded.activation_steering import Offsets, Steering
from agents.model.embedded.chat import ChatTokenizer
from agents.model.embedded.running import Cancelled, GenerationRequest, Row
from agents.model.embedded.sampling import Generation, Pieces, Sampler
from agents.model.requests import SamplingSettings
from agents.model.weights.shared import SharedWeights
from corpus.aliases import Json


@dataclass(kw_only=True)
class Engine:
    """The served model, with its tokenizer, weights and thread."""

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
    """Threads inside one operation."""
    steering: Steering
    dtype: str = "float32"
    """Name of the type that the forward pass computes products in."""
    defaults: Json = field(default_factory=dict)
    """The model's own sampling settings, for users' requests; a batch names its own."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the server stops; running work then ends."""
    users_running: int = 0
    """Users' requests that wait or run."""
    batches_running: int = 0
    """Batch requests that wait or run."""

    def __post_init__(self) -> None:
        self._arrived: list[Row] = []
        self._gone: set[Row] = set()
        self._condition = threading.Condition()
        threading.Thread(target=self._work, name="engine", daemon=True).start()

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

    async def generate(
        self, client: Request, rows: Sequence[GenerationRequest], *, user: bool
    ) -> tuple[Generation, ...]:
        """Return the answers to the rows; work on them stops if the client disconnects.

        `user` is whether they go before the rows of batches.
        """
        loop = asyncio.get_running_loop()
        ended, waiting = asyncio.Event(), len(rows)

        def end_one() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                ended.set()

        def changed(row: Row) -> None:
            if row.ended:
                _call(loop, end_one)

        own = [Row(request=request, user=user, changed=changed) for request in rows]
        with self._running(own, user):
            watcher = asyncio.create_task(self._drop_when_gone(client, own))
            try:
                await ended.wait()
            finally:
                watcher.cancel()
        for row in own:
            if row.error is not None:
                raise row.error
        return tuple(self.sampler.finished(row) for row in own)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[str | Generation]:
        """Yield the text of one row's answer in pieces while it is generated, then the answer."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | Generation | None]()
        made = Pieces(self.sampler)

        def changed(row: Row) -> None:
            if row.error is None:
                for piece in made.of(row):
                    _call(loop, pieces.put_nowait, piece)
            if row.ended:
                _call(loop, pieces.put_nowait, None)

        row = Row(request=request, user=True, changed=changed)
        with self._running([row], user=True):
            while (piece := await pieces.get()) is not None:
                yield piece
            if row.error is not None:
                raise row.error

    @contextmanager
    def _running(self, rows: Sequence[Row], user: bool) -> Iterator[None]:
        """Run the rows until the block ends, then drop those that have not ended; count their request."""
        self.users_running += user
        self.batches_running += not user
        with self._condition:
            self._arrived += rows
            self._condition.notify()
        try:
            yield
        finally:
            self.users_running -= user
            self.batches_running -= not user
            self._drop(rows)

    def _drop(self, rows: Sequence[Row]) -> None:
        """Let the thread end those of these rows that have not ended."""
        with self._condition:
            self._gone.update(row for row in rows if not row.ended)

    async def _drop_when_gone(self, client: Request, rows: Sequence[Row]) -> None:
        """Drop the rows when the client disconnects."""
        while (await client.receive())["type"] != "http.disconnect":
            pass
        self._drop(rows)

    def _work(self) -> None:
        """Run the batch for as long as the process lives."""
        torch.set_num_threads(self.threads)  # in some builds of torch this number belongs to the thread
        batch = self.sampler.batch
        while True:
            with self._condition:
                while not (batch.busy or self._arrived):
                    self._condition.wait()
                arrived, self._arrived = self._arrived, []
                gone, self._gone = self._gone, set()
            for row in arrived:
                batch.add(row)
            if gone:
                batch.drop(Cancelled(), which=gone.__contains__)
            if self.stopping.is_set():
                batch.drop(Cancelled())
            if batch.busy:
                try:
                    batch.step()
                except Exception as error:  # the boundary: a failed pass must not end the thread
                    batch.drop(error)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    """Have the event loop call the function, unless the loop has ended with the server."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise
