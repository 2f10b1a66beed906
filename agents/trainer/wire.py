"""Converts requests and results to the form that they have on the trainer's socket: JSON and raw frames.

Invariant: every body that arrives is checked field by field (`load`), and an unknown field, a missing field
or a wrong type is refused. Tokens travel as int32 frames, directions and activations as float32 frames. This
module knows nothing about the socket: `agents.model.protocol` names the verbs, and builds messages from
bodies and frames.
"""

import json
import reprlib
from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from agents.model.internals import Activations, HeadInputs
from agents.model.steering.wire import Direction
from agents.trainer.messages import Checked, Example, Objective, Settings, TrainRequest
from corpus.aliases import Json
from corpus.errors import TrainerFault

MergePart = tuple[str, str, float]
"""Start checkpoint, end checkpoint and weight of one task vector."""
REPORTED_PROBLEMS = 3
"""Most wrong fields of one body that an error names."""
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class TrainBody(Checked):
    """Body of `train`. The frames are context, chosen and rejected of each example, then each direction."""

    objective: Objective
    settings: Settings
    seed: int
    parent: str
    dry_run: bool
    weights: tuple[float, ...]
    references: tuple[tuple[float | None, float | None], ...]
    prevent: tuple[int, ...] = ()
    """Layer of each direction."""


@dataclass(frozen=True, kw_only=True)
class MergeBody(Checked):
    """Body of `merge`."""

    parent: str
    method: Literal["arithmetic", "ties"]
    density: float
    parts: tuple[MergePart, ...]


@dataclass(frozen=True, kw_only=True)
class MergeResult(Checked):
    """The size of the change that a merge made."""

    norm: float
    """Euclidean norm of the change."""
    changed: int
    """Number of weights that differ from the parent's."""
    elements: int


@dataclass(frozen=True, kw_only=True)
class CheckpointBody(Checked):
    """Body of `checkpoint`."""

    parent: str | None
    fields: Json


@dataclass(frozen=True, kw_only=True)
class RollbackBody(Checked):
    """Body of `rollback`."""

    checkpoint: str
    settled: bool


@dataclass(frozen=True, kw_only=True)
class SettleBody(Checked):
    """Body of `settle`."""

    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class LogprobsBody(Checked):
    """Body of `logprobs`. The frames are each direction, then context and continuation of each item."""

    steer: tuple[int, ...] = ()
    """Layer of each direction."""
    exact: bool = True
    """Whether products have the weights' type; a large model's may be in bfloat16 if not (`reading_type`)."""


@dataclass(frozen=True, kw_only=True)
class LogprobsResult(Checked):
    """The answer to `logprobs`, in the order of the items."""

    totals: tuple[float, ...]
    """Log-probability of each continuation (nats, summed over its tokens)."""
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ActivationsBody(Checked):
    """Body of `activations`. There is one frame for each text."""

    layers: tuple[int, ...]
    heads: tuple[int, ...] = ()
    """Layers whose heads are read too."""


@dataclass(frozen=True, kw_only=True)
class HeadShape(Checked):
    """Shape of one layer's head inputs."""

    layer: int
    shape: tuple[int, int, int]
    """(texts, heads, head size)."""


@dataclass(frozen=True, kw_only=True)
class SkippedLayer(Checked):
    """A layer whose heads cannot be separated."""

    layer: int
    attention: str


@dataclass(frozen=True, kw_only=True)
class ActivationsResult(Checked):
    """The answer to `activations`: a float32 frame for the stream, then one for each entry of `heads`."""

    shape: tuple[int, int, int]
    """(texts, layers, hidden)."""
    heads: tuple[HeadShape, ...]
    skipped: tuple[SkippedLayer, ...]


@dataclass(frozen=True, kw_only=True)
class RollbackResult(Checked):
    """The answer to `rollback`."""

    written: bool
    """Whether the shared weights held other weights and had to be rewritten."""
    version: int
    """Version of the shared weights."""


@dataclass(frozen=True, kw_only=True)
class SettleResult(Checked):
    """The answer to `settle`."""

    version: int
    """Version of the shared weights."""


@dataclass(frozen=True, kw_only=True)
class RequestStatus(Checked):
    """The answer to a `status` that asks about one request (with the field `asking`)."""

    known: bool
    done: bool
    """Whether the request was answered. Sending it again gets the same answer."""


@dataclass(frozen=True, kw_only=True)
class OrderResult(Checked):
    """The answer to `pause`, `resume` and `cancel`."""

    training: bool
    """Whether an update is in progress."""


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Return token ids as a raw int32 frame."""
    return array("i", tokens).tobytes()


def unpack_tokens(frame: bytes) -> tuple[int, ...]:
    """Return the token ids of a raw int32 frame."""
    if len(frame) % 4:
        raise TrainerFault(
            "a token frame is not a whole number of int32; this client speaks another protocol"
        )
    tokens = array("i")
    tokens.frombytes(frame)
    return tuple(tokens)


def pack_train(request: TrainRequest) -> tuple[Json, list[bytes]]:
    """Return the body and the frames of a train request."""
    body = {
        "objective": request.objective,
        "settings": asdict(request.settings),
        "seed": request.seed,
        "parent": request.parent,
        "dry_run": request.dry_run,
        "weights": [example.weight for example in request.examples],
        "references": [[e.reference_chosen, e.reference_rejected] for e in request.examples],
        "prevent": [direction.layer for direction in request.prevent],
    }
    sides = [side for e in request.examples for side in (e.context, e.chosen, e.rejected)]
    return body, [*(pack_tokens(side) for side in sides), *(direction.data for direction in request.prevent)]


def unpack_train(body: Mapping[str, Any], frames: Sequence[bytes]) -> TrainRequest:
    """Return the train request in this body and these frames; raise TrainerFault if anything is wrong."""
    header = load(TrainBody, body)
    n = len(header.weights)
    if n == 0 or len(header.references) != n or len(frames) != 3 * n + len(header.prevent):
        raise TrainerFault(
            f"{n} weights, {len(header.references)} references and {len(frames)} frames do not match"
        )
    sides = [unpack_tokens(frame) for frame in frames[: 3 * n]]
    examples = []
    for i, (weight, reference) in enumerate(zip(header.weights, header.references, strict=True)):
        context, chosen, rejected = sides[3 * i : 3 * i + 3]
        if not context or not chosen or (header.objective != "sft" and not rejected):
            raise TrainerFault(f"example {i} has an empty side; leave it out")
        examples.append(
            Example(
                context=context,
                chosen=chosen,
                rejected=rejected,
                weight=weight,
                reference_chosen=reference[0],
                reference_rejected=reference[1],
            )
        )
    return TrainRequest(
        objective=header.objective,
        settings=header.settings,
        seed=header.seed,
        parent=header.parent,
        examples=tuple(examples),
        prevent=unpack_directions(header.prevent, frames[3 * n :]),
        dry_run=header.dry_run,
    )


def unpack_directions(layers: Sequence[int], frames: Sequence[bytes]) -> tuple[Direction, ...]:
    """Return a steering direction for each of these layers; each frame holds a direction's float32 values."""
    if len(layers) != len(frames) or any(len(frame) % 4 for frame in frames):
        raise TrainerFault(
            f"{len(layers)} layers and {len(frames)} float32 frames of directions do not match"
        )
    return tuple(Direction(layer=layer, data=frame) for layer, frame in zip(layers, frames, strict=True))


def unpack_activations(
    body: Mapping[str, Any], frames: Sequence[bytes], layers: Sequence[int]
) -> Activations:
    """Return the activations in a reply; `layers`: the layers that were requested."""
    header = load(ActivationsResult, body)
    count, _, hidden = header.shape
    heads = {
        head.layer: HeadInputs(heads=head.shape[1], head_dim=head.shape[2], data=frame)
        for head, frame in zip(header.heads, frames[1:], strict=True)
    }
    skipped = {skipped.layer: skipped.attention for skipped in header.skipped}
    return Activations(
        texts=count, layers=tuple(layers), hidden=hidden, data=frames[0], heads=heads, skipped=skipped
    )


def load(kind: type[Record], body: Mapping[str, Any]) -> Record:
    """Return the JSON object as a record of this kind; raise TrainerFault with the names of wrong fields."""
    try:
        # Validated as JSON text: there pydantic's strict mode accepts a list for a tuple.
        record: Record = _adapter(cast(Hashable, kind)).validate_json(json.dumps(body), strict=True)
        return record
    except ValidationError as fault:
        problems = fault.errors(include_url=False)[:REPORTED_PROBLEMS]
        raise TrainerFault("; ".join(_problem(kind.__name__, problem) for problem in problems)) from None
    except RecursionError:
        raise TrainerFault(f"{kind.__name__} is nested too deeply") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _problem(kind: str, problem: ErrorDetails) -> str:
    """Return one sentence on what is wrong with a field."""
    place = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case "unexpected_keyword_argument":
            return f"{kind} has no field {place}"
        case "missing":
            return f"{kind} needs the field {place}"
        case _:
            return f"{kind}.{place} is {reprlib.repr(problem['input'])}: {problem['msg']}"
