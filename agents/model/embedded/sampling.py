"""Answers as text: whole, or in pieces while they are generated.

Invariant: an answer's text ends before its first stop string and has no special tokens. Text is streamed
only when no later token can change or cut it. This module knows nothing about HTTP or the source of the
weights.

Measured by `python -m bench.generation` (the shipped model, one thread) and `python -m bench.serving` (a
real one).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from agents.model.embedded.forward import Forward
from agents.model.embedded.running import Cancelled, GenerationRequest, Row, RunningBatch, first_stop


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The answer of one row."""

    text: str
    """The answer without special tokens; it ends before the first stop string."""
    token_ids: tuple[int, ...]
    """All generated tokens, including the one that ended the answer."""
    finish_reason: str
    """Why the answer ended: `stop` (an end token or a stop string) or `length` (the limit of tokens)."""


class Sampler:
    """The generator of answers with one model."""

    def __init__(
        self,
        forward: Forward,
        decode: Callable[[Sequence[int]], str],
        end_ids: Sequence[int],
        lock: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """See `RunningBatch`."""
        self._decode = decode
        self._new_batch: Callable[[], RunningBatch] = lambda: RunningBatch(forward, decode, end_ids, lock)
        self.batch = self._new_batch()
        """The batch that an engine runs."""

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool] = lambda: False
    ) -> tuple[Generation, ...]:
        """Return the answers to the requests, in order; for callers without an engine.

        `cancelled` is called before each pass; once it returns True, `Cancelled` is raised.
        """
        batch, rows = self._new_batch(), [Row(request=request) for request in requests]
        for row in rows:
            batch.add(row)
        while batch.busy:
            if cancelled():
                batch.drop(Cancelled())
                raise Cancelled
            batch.step()
        return tuple(self.finished(row) for row in rows)

    def stream(self, request: GenerationRequest) -> Iterator[str | Generation]:
        """Yield the answer's text piece by piece while it is generated, then the whole answer."""
        batch, row, pieces = self._new_batch(), Row(request=request), Pieces(self)
        batch.add(row)
        while batch.busy:
            batch.step()
            yield from pieces.of(row)

    def text(self, row: Row) -> str:
        """Return the row's text up to its first stop string."""
        text = self._decode(row.tokens)
        place = first_stop(text, row.request.stop)
        return text if place < 0 else text[:place]

    def final_text(self, row: Row) -> str:
        """Return the part of a running row's text that no later token can change or cut."""
        text = self._decode(row.tokens).rstrip("\ufffd")
        held_back = max((len(part) for part in row.request.stop), default=1) - 1
        return text[: len(text) - held_back]

    def finished(self, row: Row) -> Generation:
        """Return the answer of a row that has ended."""
        return Generation(text=self.text(row), token_ids=tuple(row.tokens), finish_reason=row.finish_reason)


class Pieces:
    """The pieces of one answer, of which each is given out once."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler, self._sent = sampler, 0

    def of(self, row: Row) -> Iterator[str | Generation]:
        """Yield the row's text since the last call, if there is any, and then the answer if it has ended."""
        ready = self._sampler.text(row) if row.finish_reason else self._sampler.final_text(row)
        if len(ready) > self._sent:
            yield ready[self._sent :]
            self._sent = len(ready)
        if row.finish_reason:
            yield self._sampler.finished(row)
