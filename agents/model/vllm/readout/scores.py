"""The readout's arithmetic: which rows of a forward pass are read, how they travel, and what they come to.

A forward pass computes the residual stream of some tokens of several requests, one below the other. Token number 0
of an answer's readings is the last of its prompt, number i the i-th of the answer; the last token of an answer is
drawn and never goes through the model. Invariant: no score of one request is ever counted for another, and a token
that is computed again (after a preemption) counts once. Knows no vLLM, no socket and no torch.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT_RESPONSES = 1000
"""Responses whose readings are kept to be asked for."""
OPEN_ANSWERS = 4096
"""Answers in the making that are kept track of: more than any server runs at once."""

Scores = NDArray[np.float32]


def picked(
    starts: NDArray[Any], computed: NDArray[Any], prompts: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Which rows of a pass are read: (rows, the first token number of each request, how many of each).

    starts: `(n + 1,)` first row of each request, and the end; computed: `(n,)` tokens of each that earlier passes
    have computed; prompts: `(n,)` lengths of the prompts.
    """
    skipped = np.clip(prompts - 1 - computed, 0, None)
    begins = np.minimum(starts[:-1] + skipped, starts[1:])
    counts = (starts[1:] - begins).astype(np.int64)
    total = int(counts.sum())
    before = np.repeat(counts.cumsum() - counts, counts)
    rows = np.repeat(begins, counts) + np.arange(total) - before
    return rows.astype(np.int64), (computed + skipped - (prompts - 1)).astype(np.int64), counts


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What one forward pass has read."""

    digest: str
    """Of the vectors that it was read with."""
    concepts: tuple[str, ...]
    layers: tuple[int, ...]
    requests: tuple[str, ...]
    """Names of the requests in the engine."""
    first: tuple[int, ...]
    """Number of each one's first token that was read."""
    counts: tuple[int, ...]
    """Tokens of each that were read."""
    scores: Scores
    """`(tokens, layers, concepts)`, the requests' one below the other."""


def pack(passed: Passed) -> list[bytes]:
    """A JSON header and the scores as raw little-endian float32."""
    header = {
        "digest": passed.digest,
        "concepts": passed.concepts,
        "layers": passed.layers,
        "requests": passed.requests,
        "first": passed.first,
        "counts": passed.counts,
    }
    return [json.dumps(header, separators=(",", ":")).encode(), np.ascontiguousarray(passed.scores).tobytes()]


def unpack(frames: Sequence[bytes]) -> Passed:
    """What `pack` made of it; a `ValueError` for anything else."""
    try:
        header, data = frames
        told: Any = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in json.loads(header).items()
        }
        shape = (sum(told["counts"]), len(told["layers"]), len(told["concepts"]))
        if not len(told["requests"]) == len(told["first"]) == len(told["counts"]):
            raise ValueError("the lists differ in length")
        return Passed(**told, scores=np.frombuffer(data, dtype=np.float32).reshape(shape))
    except (KeyError, TypeError, AttributeError) as fault:
        raise ValueError(f"no readings: {fault}") from fault


@dataclass(kw_only=True)
class _Answer:
    """One answer's readings, as they come."""

    read_with: tuple[str, tuple[str, ...], tuple[int, ...]] | None = None
    """Digest, concepts and layers of the vectors."""
    tokens: dict[int, Scores] = field(default_factory=dict)
    """`(layers, concepts)` of each token, by its number."""
    length: int | None = None
    """Tokens of the answer, once it has ended."""
    summary: list[dict[str, Any]] | None = None
    """What it came to; then `tokens` is empty."""

    @property
    def complete(self) -> bool:
        return self.length is not None and all(number in self.tokens for number in range(self.length))

    def settle(self) -> list[dict[str, Any]]:
        """The scores of the whole answer, one entry a layer."""
        if self.summary is None:
            self.summary = self._summed()
            self.tokens = {}
        return self.summary

    def _summed(self) -> list[dict[str, Any]]:
        if self.read_with is None:
            return []
        _, concepts, layers = self.read_with
        numbers = [number for number in sorted(self.tokens) if 0 < number < (self.length or 0)]
        answer = np.stack([self.tokens[number] for number in numbers]) if numbers else None
        prompt = self.tokens.get(0)
        summed = []
        for at, layer in enumerate(layers):
            scores = {
                concept: {
                    "prompt": None if prompt is None else float(prompt[at, which]),
                    "mean": None if answer is None else float(answer[:, at, which].mean(dtype=np.float64)),
                    "last": None if answer is None else float(answer[-1, at, which]),
                }
                for which, concept in enumerate(concepts)
            }
            summed.append({"layer": layer, "tokens": len(numbers), "scores": scores})
        return summed


class Readings:
    """The readings of the answers in the making, and of the last responses."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, _Answer] = OrderedDict()
        self._responses: OrderedDict[str, dict[int, _Answer]] = OrderedDict()

    def add(self, passed: Passed) -> None:
        """Take in what a forward pass has read."""
        row = 0
        read_with = (passed.digest, passed.concepts, passed.layers)
        for request, first, count in zip(passed.requests, passed.first, passed.counts, strict=True):
            answer = self._answer(request)
            if answer.read_with != read_with:  # other vectors since: their scores do not compare
                answer.read_with, answer.tokens = read_with, {}
            if answer.summary is None:
                for number in range(first, first + count):
                    answer.tokens[number] = passed.scores[row + number - first]
            row += count
            if answer.complete:
                answer.settle()
                del self._open[request]

    def ended(self, request: str, response: str, index: int, length: int) -> None:
        """An answer has ended: which request it was, whose response and which choice of it, and its tokens."""
        answer = self._answer(request)
        answer.length = length
        self._responses.setdefault(response, {})[index] = answer
        while len(self._responses) > KEPT_RESPONSES:
            self._responses.popitem(last=False)
        if answer.complete:
            answer.settle()
            del self._open[request]

    def whole(self, response: str) -> bool:
        """Whether every token of this response that was computed has been read."""
        return all(answer.summary is not None for answer in self._responses.get(response, {}).values())

    def of(self, response: str) -> list[dict[str, Any]] | None:
        """The readings of a response, one entry a choice and layer; None for one that is not known."""
        answers = self._responses.get(response)
        if answers is None:
            return None
        return [{"index": index, **entry} for index in sorted(answers) for entry in answers[index].settle()]

    def _answer(self, request: str) -> _Answer:
        answer = self._open.setdefault(request, _Answer())
        self._open.move_to_end(request)
        while len(self._open) > OPEN_ANSWERS:
            self._open.popitem(last=False)
        return answer
