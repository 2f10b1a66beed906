"""What is asked of the trainer and what it answers: plain records, without torch.

Invariant: every record that crosses the socket is checked field by field when it arrives (`load`); an
unknown, missing or ill-typed field is refused. Tokens travel beside the header as raw int32. Knows no socket.
"""

import reprlib
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from agents.model.steering.wire import MAX_STRENGTH, Direction
from corpus.errors import TrainerFault

DEFAULT_RANK = 64
"""Rows of Apollo's projection."""
NORM_GROWTH_LIMIT = 1.01
"""How much larger an update may be than the one before it (gamma of arXiv 2412.05270, section 4)."""
PROJECTION_REFRESH = 200
"""Steps after which a new projection is drawn."""
Objective = Literal["orpo", "dpo", "dpop", "simpo", "kto", "sft"]
Record = TypeVar("Record")
LARGEST = sys.float_info.max
"""Largest number: JSON can write infinity (1e999) and whole numbers that no float holds."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything about an update that is a choice."""

    lr: float
    """Peak learning rate."""
    batch_size: int = 8
    """Examples in one step."""
    epochs: int = 1
    """Passes over the examples."""
    beta: float = 0.1
    """Lambda of ORPO; beta of DPO, DPOP, SimPO and KTO."""
    dpop_penalty: float = 5.0
    """Lambda of DPOP."""
    simpo_margin: float = 1.0
    """Gamma of SimPO: the margin of rewards that it asks for."""
    desirable_weight: float = 1.0
    """KTO's lambda_D: the weight of the chosen answers."""
    undesirable_weight: float = 1.0
    """KTO's lambda_U: the weight of the rejected answers."""
    norm_cap: float = 0.1
    """Largest norm of one step's update, as a share of the weights' norm; a larger step is refused."""
    rank: int = DEFAULT_RANK
    """Rank of the projection (Apollo)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the moments (Apollo)."""
    eps: float = 1e-8
    """Number added to the denominator (Apollo)."""
    weight_decay: float = 0.0
    """Decoupled weight decay (Apollo)."""
    warmup_steps: int = 0
    """Warm-up steps, counted over all updates since the optimizer's state was new (Apollo)."""
    scale: float | None = None
    """Alpha (Apollo); unset for sqrt(n / rank)."""
    proj_refresh: int = PROJECTION_REFRESH
    """Steps between two projections (Apollo)."""
    norm_growth_limit: float = NORM_GROWTH_LIMIT
    """Largest growth of an update's norm from one step to the next (Apollo)."""
    projection: Literal["gaussian", "sketch"] = "gaussian"
    """Kind of projection (Apollo): gaussian, as in the paper, or sketch, a count sketch, which is
    faster."""
    reset_limiter: bool = False
    """Whether the first step of an update is free of the limit that the last update's norm sets
    (Apollo)."""
    master_weights: bool = False
    """Whether bfloat16 weights are kept in float32 beside the optimizer's state, for rates that rounding
    would drown."""
    context_gradient: bool = False
    """Whether gradients flow through the context too: exact, and about twice as expensive."""
    micro_batch: int = 0
    """Examples in one pass, whose gradients add up to a step's; 0 for all of a step's examples at
    once."""
    activation_checkpointing: bool = False
    """Whether activations are computed again instead of kept: less memory, more time."""
    prevent: Mapping[str, float] = field(default_factory=dict)
    """Concepts that the model is steered by while an update trains, each with a strength, such as
    `{echoing = 20.0}`: the weights then need not move that way."""

    def __post_init__(self) -> None:
        for name in (
            "lr",
            "batch_size",
            "epochs",
            "norm_cap",
            "rank",
            "eps",
            "proj_refresh",
            "norm_growth_limit",
        ):
            if not getattr(self, name) > 0:
                raise TrainerFault(f"the training setting {name} must be above 0")
        if not all(
            abs(strength) <= MAX_STRENGTH for strength in self.prevent.values()
        ):  # nor what is not a number
            raise TrainerFault(
                f"the training setting prevent has strengths from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
            )
        if self.micro_batch < 0:
            raise TrainerFault("the training setting micro_batch must be 0 or above")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One context with the answer to learn and, for a pair, the answer to leave."""

    context: Sequence[int]
    """Token ids, at least one."""
    chosen: Sequence[int]
    rejected: Sequence[int] = ()
    """Empty for SFT."""
    weight: float = 1.0
    """How much its source is trusted, 0 to 1: multiplies its loss."""
    reference_chosen: float | None = None
    """Summed log-probability (nats) under the pinned reference; DPO computes it from `parent` if None."""
    reference_rejected: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """One update: from the parent's weights and optimizer state, over these examples."""

    objective: Objective
    settings: Settings
    seed: int
    parent: str
    """Id of the checkpoint to start from."""
    examples: Sequence[Example]
    prevent: Sequence[Direction] = ()
    """What `settings.prevent` comes to, with the home's vectors."""
    dry_run: bool = False
    """Compute every step's loss, gradients and would-be update norms at the parent's weights; change nothing."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One step that was made."""

    step: int
    """From 1."""
    steps: int
    """How many there will be."""
    metrics: Mapping[str, float]
    """loss, chosen_logprob, rejected_logprob (nats per token), chosen_reward, rejected_reward, margin,
    accuracy, grad_norm, update_norm, update_ratio (to the weights' norm), limiter_divisor (the most that a
    matrix' update was divided by), tokens_per_second; SFT has no rejected side."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """An update that was made in the mapping, where a `checkpoint` makes it durable; or a dry run's figures."""

    steps: int
    reports: tuple[StepReport, ...]
    optimizer: Literal["continued", "fresh"]
    """Whether the optimizer went on from the parent's state; fresh also after a change of rank."""


@dataclass(frozen=True, kw_only=True)
class CheckpointResult:
    """A checkpoint on disk."""

    id: str
    weights_sha256: str
    optimizer_sha256: str | None
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the trainer is doing, answered even in mid-step."""

    pid: int
    doing: str
    """The verb being worked on, or "idle"."""
    paused: bool
    """The update waits between two steps until `resume`."""
    step: int
    steps: int
    version: int
    """Of the mapping."""
    dirty: bool
    holds: str
    """Id of the checkpoint in the mapping; "" in mid-update."""
    replaced: bool
    """The server has made a new mapping: restart the trainer."""


@dataclass(frozen=True, kw_only=True)
class LogProb:
    """A continuation's log-probability, given its context."""

    total: float
    """Nats, summed over the tokens."""
    tokens: int


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as a raw int32 frame."""
    return array("i", tokens).tobytes()


def unpack_tokens(frame: bytes) -> tuple[int, ...]:
    """Token ids of a raw int32 frame."""
    if len(frame) % 4:
        raise TrainerFault(
            "a token frame is not a whole number of int32; this client speaks another protocol"
        )
    tokens = array("i")
    tokens.frombytes(frame)
    return tuple(tokens)


def pack_train(request: TrainRequest) -> tuple[dict[str, Any], list[bytes]]:
    """The body of a train request and its frames: context, chosen, rejected of each example, then directions."""
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


@dataclass(frozen=True, kw_only=True)
class _TrainBody:
    objective: Objective
    settings: dict[str, Any]
    seed: int
    parent: str
    weights: tuple[float, ...]
    references: tuple[tuple[float | None, float | None], ...]
    dry_run: bool
    prevent: tuple[int, ...] = ()


def unpack_train(body: Mapping[str, Any], frames: Sequence[bytes]) -> TrainRequest:
    """The train request of this body and these frames; anything amiss is refused."""
    plain = load(_TrainBody, body)
    n = len(plain.weights)
    if n == 0 or len(plain.references) != n or len(frames) != 3 * n + len(plain.prevent):
        raise TrainerFault(
            f"{n} weights, {len(plain.references)} references and {len(frames)} frames do not match"
        )
    sides = [unpack_tokens(frame) for frame in frames[: 3 * n]]
    examples = []
    for i, (weight, reference) in enumerate(zip(plain.weights, plain.references, strict=True)):
        context, chosen, rejected = sides[3 * i : 3 * i + 3]
        if not context or not chosen or (plain.objective != "sft" and not rejected):
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
        objective=plain.objective,
        settings=load(Settings, plain.settings),
        seed=plain.seed,
        parent=plain.parent,
        examples=tuple(examples),
        prevent=unpack_directions(plain.prevent, frames[3 * n :]),
        dry_run=plain.dry_run,
    )


def unpack_directions(layers: Sequence[int], frames: Sequence[bytes]) -> tuple[Direction, ...]:
    """Directions after these layers, a raw float32 frame each."""
    if len(layers) != len(frames) or any(len(frame) % 4 for frame in frames):
        raise TrainerFault(
            f"{len(layers)} layers and {len(frames)} float32 frames of directions do not match"
        )
    return tuple(Direction(layer=layer, data=frame) for layer, frame in zip(layers, frames, strict=True))


def load(kind: type[Record], body: Mapping[str, Any]) -> Record:
    """A record of this kind from a JSON object; every field is checked against its annotation."""
    hints = get_type_hints(kind)
    known = fields(kind)  # type: ignore[arg-type]
    if unknown := body.keys() - {f.name for f in known}:
        raise TrainerFault(f"{kind.__name__.strip('_')} has no field {', '.join(sorted(unknown))}")
    values = {}
    for f in known:
        if f.name in body:
            values[f.name] = _fit(f"{kind.__name__.strip('_')}.{f.name}", body[f.name], hints[f.name])
        elif f.default is MISSING and f.default_factory is MISSING:
            raise TrainerFault(f"{kind.__name__.strip('_')} needs the field {f.name}")
    return kind(**values)


def _fit(where: str, value: Any, hint: Any) -> Any:
    """The value as its annotation says, or a fault that names the field."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is float and type(value) in (int, float) and abs(value) <= LARGEST:
        return float(value)
    if hint is Any or (hint is not float and type(value) is hint):
        return value
    if origin is Literal and value in arguments:
        return value
    if origin is UnionType:
        rest = next(argument for argument in arguments if argument is not NoneType)
        return None if value is None else _fit(where, value, rest)
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[1:] != (...,) and len(arguments) != len(value):
            raise TrainerFault(f"{where} has {len(value)} entries, not {len(arguments)}")
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else arguments
        return tuple(_fit(where, part, kind) for part, kind in zip(value, kinds, strict=True))
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {str(key): _fit(f"{where}.{key}", part, arguments[1]) for key, part in value.items()}
    raise TrainerFault(f"{where} is {reprlib.repr(value)}, which is no {hint}")
