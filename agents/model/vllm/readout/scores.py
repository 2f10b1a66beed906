"""The data of the readout: the rows of a pass that are read, the message with their scores, and the readings.

A forward pass computes some tokens of several requests, with one row of the residual stream for each token.
Each row that is read gives a score for each layer and concept. The scores of one answer are its readings.
They are numbered by token: number 0 is the last token of the prompt, number i is the answer's i-th token. The
last token of an answer has no scores, because it is drawn and never passes through the model.

Invariant: no score of one request counts for another, and a token that is computed twice (after a preemption)
counts once. This module knows nothing about vLLM, sockets or torch.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpus.aliases import Json

KEPT_RESPONSES = 1000
"""Most responses whose readings are kept for later requests."""
OPEN_ANSWERS = 4096
"""Most unfinished answers whose readings are kept: more than any server generates at once."""

Scores = NDArray[np.float32]


def rows_to_read(
    starts: NDArray[Any], computed: NDArray[Any], prompts: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of a pass that are read: the last of each prompt, and those of the answers.

    Args:
        starts: For each of the pass's n requests its first row, and the end of the last request, `(n + 1,)`.
        computed: The number of tokens of each request that earlier passes have computed, `(n,)`.
        prompts: The number of tokens of each prompt, `(n,)`.

    Returns:
        The rows, in ascending order; the number of the first token of each request that is read, `(n,)`; and
        how many tokens of each request are read, `(n,)`.
    """
    skipped = np.clip(prompts - 1 - computed, 0, None)
    begins = np.minimum(starts[:-1] + skipped, starts[1:])
    counts = (starts[1:] - begins).astype(np.int64)
    total = int(counts.sum())
    before = np.repeat(counts.cumsum() - counts, counts)
    rows = np.repeat(begins, counts) + np.arange(total) - before
    return rows.astype(np.int64), (computed + skipped - (prompts - 1)).astype(np.int64), counts


@dataclass(frozen=True, kw_only=True)
class PassOwners:
    """The requests of one forward pass that are read."""

    requests: tuple[str, ...]
    """Names of the requests in the engine."""
    first: tuple[int, ...]
    """For each request, the number of the first token that is read."""
    counts: tuple[int, ...]
    """For each request, how many tokens are read."""


@dataclass(frozen=True, kw_only=True)
class PassScores(PassOwners):
    """The scores of one forward pass, with the requests and the concept vectors that they belong to."""

    digest: str
    """Digest of the concept vectors."""
    concepts: tuple[str, ...]
    layers: tuple[int, ...]
    scores: Scores
    """`(tokens, layers, concepts)`; the tokens of each request follow those of the request before."""


def pack(passed: PassScores) -> list[bytes]:
    """Return the two frames for a pass: a JSON header, and the scores as raw little-endian float32."""
    header = {
        "digest": passed.digest,
        "concepts": passed.concepts,
        "layers": passed.layers,
        "requests": passed.requests,
        "first": passed.first,
        "counts": passed.counts,
    }
    return [json.dumps(header, separators=(",", ":")).encode(), np.ascontiguousarray(passed.scores).tobytes()]


def unpack(frames: Sequence[bytes]) -> PassScores:
    """Return the pass in the frames that `pack` made; raise `ValueError` for any other frames."""
    try:
        header, data = frames
        fields: Any = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in json.loads(header).items()
        }
        shape = (sum(fields["counts"]), len(fields["layers"]), len(fields["concepts"]))
        if not len(fields["requests"]) == len(fields["first"]) == len(fields["counts"]):
            raise ValueError("the lists differ in length")
        return PassScores(**fields, scores=np.frombuffer(data, dtype=np.float32).reshape(shape))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the readings of a forward pass: {error}") from error


@dataclass(kw_only=True)
class _Answer:
    """The readings of one answer, as they arrive."""

    vectors: tuple[str, tuple[str, ...], tuple[int, ...]] | None = None
    """Digest, concepts and layers of the concept vectors; None before the first scores."""
    tokens: dict[int, Scores] = field(default_factory=dict)
    """The scores `(layers, concepts)` of each token, by its number; empty once `summary` is made."""
    length: int | None = None
    """Number of the answer's tokens; None until the answer has ended."""
    summary: list[Json] | None = None
    """The scores of the whole answer, from `finalize`; None until then."""

    @property
    def complete(self) -> bool:
        """Whether the answer has ended, and the scores of all its tokens but the last have arrived."""
        return self.length is not None and all(number in self.tokens for number in range(self.length))

    def finalize(self) -> list[Json]:
        """Return the scores of the whole answer, one entry for each layer, and drop the tokens' own scores.

        For each concept an entry has the score of the prompt's last token, the mean of the answer's tokens,
        and the score of the last token that has one.
        """
        if self.summary is None:
            self.summary = self._summarize()
            self.tokens = {}
        return self.summary

    def _summarize(self) -> list[Json]:
        if self.vectors is None:
            return []
        _, concepts, layers = self.vectors
        numbers = [number for number in sorted(self.tokens) if 0 < number < (self.length or 0)]
        answer = np.stack([self.tokens[number] for number in numbers]) if numbers else None
        prompt = self.tokens.get(0)
        entries = []
        for row, layer in enumerate(layers):
            scores = {
                concept: {
                    "prompt": None if prompt is None else float(prompt[row, column]),
                    "mean": None if answer is None else float(answer[:, row, column].mean(dtype=np.float64)),
                    "last": None if answer is None else float(answer[-1, row, column]),
                }
                for column, concept in enumerate(concepts)
            }
            entries.append({"layer": layer, "tokens": len(numbers), "scores": scores})
        return entries


class Readings:
    """The readings of unfinished answers, and of the last responses; a response has one or more answers."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, _Answer] = OrderedDict()
        self._responses: OrderedDict[str, dict[int, _Answer]] = OrderedDict()

    def add(self, passed: PassScores) -> None:
        """Add the scores of a forward pass to the answers that they belong to."""
        row = 0
        vectors = (passed.digest, passed.concepts, passed.layers)
        for request, first, count in zip(passed.requests, passed.first, passed.counts, strict=True):
            answer = self._answer(request)
            # Scores of other vectors cannot be compared with these.
            if answer.vectors != vectors:
                answer.vectors, answer.tokens = vectors, {}
            if answer.summary is None:
                for number in range(first, first + count):
                    answer.tokens[number] = passed.scores[row + number - first]
            row += count
            self._close_if_complete(request, answer)

    def ended(self, request: str, response: str, index: int, length: int) -> None:
        """Record that an answer has ended.

        Args:
            request: Name of its request in the engine.
            response: Id of the response that it is part of.
            index: Its number among the choices of the response.
            length: The number of its tokens.
        """
        answer = self._answer(request)
        answer.length = length
        self._responses.setdefault(response, {})[index] = answer
        while len(self._responses) > KEPT_RESPONSES:
            self._responses.popitem(last=False)
        self._close_if_complete(request, answer)

    def complete(self, response: str) -> bool:
        """Return whether all scores of this response's ended answers have arrived."""
        return all(answer.summary is not None for answer in self._responses.get(response, {}).values())

    def of(self, response: str) -> list[Json] | None:
        """Return the readings of a response, one entry for each choice and layer; None if it is not known."""
        answers = self._responses.get(response)
        if answers is None:
            return None
        return [{"index": index, **entry} for index in sorted(answers) for entry in answers[index].finalize()]

    def _answer(self, request: str) -> _Answer:
        answer = self._open.setdefault(request, _Answer())
        self._open.move_to_end(request)
        while len(self._open) > OPEN_ANSWERS:
            self._open.popitem(last=False)
        return answer

    def _close_if_complete(self, request: str, answer: _Answer) -> None:
        if answer.complete:
            answer.finalize()
            del self._open[request]
