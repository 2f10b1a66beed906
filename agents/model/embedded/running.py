"""The running batch: rows of all requests, whose answers grow together, one token in each pass.

A row is one prompt and its answer. It waits until the cache has space for it, is read in pieces of PIECE
tokens, and then gets a token in each pass until its answer ends. Rows come and go at any time. Users' rows
go first: they are admitted first, their prompts are read first, and while one of them runs, at most
BESIDE_USERS rows share its passes.

Invariant: a row's answer depends on its own prompt, seed and settings, not on the rows beside it: its
prompt is cut at the same places whoever else runs, and `Forward` keeps rows apart. Every row ends with an
answer, or with an error in `Row.error`, exactly once. This module knows nothing about HTTP, threads or the
source of the weights.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from agents.model.embedded.activation_steering import Offsets
from agents.model.embedded.draw import DrawSettings, draw
from agents.model.embedded.forward import Forward
from agents.model.embedded.passes import Part

MOST_BATCH_ROWS = 256
"""Most rows of batches that run at once; users' rows have space beside them."""
PIECE = 256
"""Tokens of a prompt that are read in one pass: few enough that a change of the weights never waits for
long."""
PASS_TOKENS = 768
"""Prompt tokens in one pass: few enough for the activations to stay in the processor's cache."""
BESIDE_USERS = 32
"""Rows in a pass with a user's row: as many as a pass takes at hardly any cost, because it reads all
weights anyway."""
LEAST_BESIDE = 8
"""Rows of batches that go on however many users' rows there are."""


class Cancelled(Exception):
    """Generation ended early: the client has gone, or the server is stopping."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One row: a prompt, and the sampling settings of its answer."""

    tokens: Sequence[int]
    seed: int
    """At least 0, below 2**64."""
    temperature: float
    """0 takes the most likely token each time."""
    max_tokens: int
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    end_ids: frozenset[int] = frozenset()
    """Tokens that end this answer, beside those that end every answer of the model."""
    offsets: Offsets | None = None
    """The steering of the row; None for none."""


@dataclass(kw_only=True, eq=False)
class Row:
    """A row, while its answer is generated and after."""

    request: GenerationRequest
    user: bool = False
    """Whether it goes before the rows of batches."""
    changed: Callable[["Row"], None] = lambda row: None
    """Called after each of its tokens, and when it ends with an error."""
    tokens: list[int] = field(default_factory=list)
    """The answer so far."""
    finish_reason: str = ""
    """See `sampling.Generation`; "" until the answer ends."""
    error: BaseException | None = None
    """Why the row ended without a whole answer."""
    place: int = -1
    """The row's number in the forward pass, while it runs."""
    read: int = 0
    """How many tokens of prompt and answer have been read."""

    def __post_init__(self) -> None:
        request = self.request
        self.draw = DrawSettings(temperature=request.temperature, top_p=request.top_p, min_p=request.min_p)
        self.uniforms: np.ndarray[Any, Any] = (
            np.random.Generator(np.random.Philox(key=request.seed)).random(request.max_tokens)
            if request.temperature > 0
            else np.zeros(request.max_tokens)
        )
        """A number in [0, 1) for each token that the answer may have, from the row's own seed."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the row."""
        return bool(self.finish_reason) or self.error is not None

    @property
    def unread(self) -> int:
        """How many tokens of the prompt have not been read."""
        return max(0, len(self.request.tokens) - self.read)


class RunningBatch:
    """All rows of one model; one thread uses it."""

    def __init__(
        self,
        forward: Forward,
        decode: Callable[[Sequence[int]], str],
        end_ids: Sequence[int],
        lock: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Create an empty batch.

        Args:
            forward: The forward pass of the model.
            decode: Returns the text of tokens.
            end_ids: The tokens that end an answer.
            lock: Makes what is held during each forward pass: see `WorkingWeights.reading`.
        """
        self._forward, self._decode, self._lock = forward, decode, lock
        self._end_ids = frozenset(end_ids)
        self._waiting: tuple[deque[Row], deque[Row]] = (deque(), deque())
        self._running: list[Row] = []
        self.tokens = 0
        """How many tokens of prompts and answers have been read so far."""

    @property
    def busy(self) -> bool:
        """Whether any row runs or waits."""
        return bool(self._running or any(self._waiting))

    def add(self, row: Row) -> None:
        """Let the row wait for its turn."""
        self._waiting[not row.user].append(row)

    def drop(self, error: BaseException, *, which: Callable[[Row], bool] = lambda row: True) -> None:
        """End with this error the rows that `which` selects; all by default."""
        for queue in self._waiting:
            dropped = [row for row in queue if which(row)]
            for row in dropped:
                queue.remove(row)
                self._fail(row, error)
        for row in [row for row in self._running if which(row)]:
            self._remove(row)
            self._fail(row, error)

    @torch.inference_mode()
    def step(self) -> None:
        """Make one pass through the model, and give the rows in it their next tokens."""
        self._admit()
        rows = self._rows_of_pass()
        parts = [self._part(row) for row in rows]
        with self._lock():
            logits = self._forward.read(parts)
        wanted = []
        for row, part in zip(rows, parts, strict=True):
            row.read += len(part.tokens)
            self.tokens += len(part.tokens)
            if part.wanted:
                wanted.append(row)
        if not wanted:
            return
        uniforms = [row.uniforms[len(row.tokens)] for row in wanted]
        tokens = draw(logits, [row.draw for row in wanted], uniforms)
        for row, token in zip(wanted, tokens, strict=True):
            self._append(row, token)
            if row.ended:
                self._remove(row)
            row.changed(row)

    def _admit(self) -> None:
        """Let waiting rows run, as far as there is space; users' rows first."""
        for queue, batch in zip(self._waiting, (False, True), strict=True):
            while queue:
                running = sum(not row.user for row in self._running) if batch else 0
                tokens = len(queue[0].request.tokens) + queue[0].request.max_tokens
                if running >= MOST_BATCH_ROWS:
                    return
                place = self._forward.open(
                    tokens, queue[0].request.offsets, spare=batch and bool(self._running)
                )
                if place is None:
                    return
                row = queue.popleft()
                row.place = place
                self._running.append(row)

    def _rows_of_pass(self) -> list[Row]:
        """Return the rows of the next pass: running answers, and as many prompts as it has space for."""
        users = [row for row in self._running if row.user]
        others = [row for row in self._running if not row.user]
        if users:
            answering = [row for row in others if not row.unread]
            beside = max(LEAST_BESIDE, BESIDE_USERS - len(users))
            others = [*answering[:beside], *(row for row in others if row.unread)]
        budget = PIECE if users else PASS_TOKENS
        rows = []
        for row in (*users, *others):
            if not row.unread:
                rows.append(row)
            elif budget > 0:
                rows.append(row)
                budget -= min(row.unread, PIECE)
        return rows

    def _part(self, row: Row) -> Part:
        """Return the row's tokens for the next pass."""
        if row.unread:
            tokens = row.request.tokens[row.read : row.read + PIECE]
            return Part(row.place, tokens, row.read, len(tokens) == row.unread)
        return Part(row.place, row.tokens[-1:], row.read, True)

    def _append(self, row: Row, token: int) -> None:
        """Append the token to the row, and end the row if it must end."""
        row.tokens.append(token)
        ends = token in self._end_ids or token in row.request.end_ids
        if ends or (row.request.stop and self._stops(row)):
            row.finish_reason = "stop"
        elif len(row.tokens) >= row.request.max_tokens:
            row.finish_reason = "length"

    def _stops(self, row: Row) -> bool:
        """Return whether the row's text has a stop string, which its last token has completed."""
        stop = row.request.stop
        # A character has at most four tokens, so a stop string that ends now begins within so many tokens.
        tail = 4 * max(map(len, stop)) + 4
        near = len(row.tokens) > tail and first_stop(self._decode(row.tokens[-tail:]), stop) < 0
        return not near and first_stop(self._decode(row.tokens), stop) >= 0

    def _remove(self, row: Row) -> None:
        """Give back the space of a running row."""
        self._running.remove(row)
        self._forward.close(row.place)

    def _fail(self, row: Row, error: BaseException) -> None:
        row.error = error
        row.changed(row)


def first_stop(text: str, stop: Iterable[str]) -> int:
    """Return the position in the text at which the first stop string begins; -1 if there is none."""
    return min((place for part in stop if (place := text.find(part)) >= 0), default=-1)
