"""What callers ask of the trainer and get from it: plain records, without torch.

Invariant: a record says everything that its result depends on. This module does not know how records travel:
see `wire.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from agents.model.steering.wire import MAX_STRENGTH, Direction
from corpus.errors import TrainerFault

DEFAULT_RANK = 64
"""Rows of Apollo's projection."""
NORM_GROWTH_LIMIT = 1.01
"""Largest ratio of an update's norm to the previous one's (gamma of arXiv 2412.05270, section 4)."""
PROJECTION_REFRESH = 200
"""Steps after which a new projection is drawn."""
Objective = Literal["orpo", "dpo", "dpop", "simpo", "kto", "sft"]


class Checked:
    """Base of the records that are checked when they arrive: known fields and finite numbers only."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """The choices of an update."""

    lr: float
    """Peak learning rate."""
    batch_size: int = 8
    """Examples in one step."""
    epochs: int = 1
    """Passes over the examples."""
    beta: float = 0.1
    """Lambda of ORPO; beta of DPO, DPOP, SimPO and KTO."""
    dpop_penalty: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """Lambda of DPOP."""
    simpo_margin: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Gamma of SimPO: the margin of rewards that it asks for."""
    desirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """KTO's lambda_D: the weight of the chosen answers."""
    undesirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """KTO's lambda_U: the weight of the rejected answers."""
    norm_cap: float = 0.1
    """Largest norm of one step's update, as a share of the weights' norm; a larger step is refused."""
    rank: int = DEFAULT_RANK
    """Rank of the projection (Apollo)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the moments (Apollo)."""
    eps: float = 1e-8
    """Number added to the denominator (Apollo)."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay (Apollo)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
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
        """Refuse settings that no update can be made with."""
        positive = (
            "lr",
            "batch_size",
            "epochs",
            "norm_cap",
            "rank",
            "eps",
            "proj_refresh",
            "norm_growth_limit",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise TrainerFault(f"the training setting {name} must be above 0")
        if not all(abs(strength) <= MAX_STRENGTH for strength in self.prevent.values()):  # false for NaN too
            raise TrainerFault(
                f"the training setting prevent has strengths from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
            )
        if self.micro_batch < 0:
            raise TrainerFault("the training setting micro_batch must be 0 or above")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One context with the answer to learn and, for a pair, the answer to avoid."""

    context: Sequence[int]
    """Token ids, at least one."""
    chosen: Sequence[int]
    rejected: Sequence[int] = ()
    """Empty for SFT."""
    weight: float = 1.0
    """Trust in the example's source, 0 to 1: multiplies its loss."""
    reference_chosen: float | None = None
    """Summed log-probability (nats) under the pinned reference; None: DPO computes it from `parent`."""
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
    """The directions of `settings.prevent`, from the home's concept vectors."""
    dry_run: bool = False
    """Compute every step's loss, gradients and update norm at the parent's weights; change nothing."""


@dataclass(frozen=True, kw_only=True)
class StepReport(Checked):
    """One completed step."""

    step: int
    """From 1."""
    steps: int
    """Number of steps of the update."""
    metrics: Mapping[str, float]
    """loss, chosen_logprob, rejected_logprob (nats per token), chosen_reward, rejected_reward, margin,
    accuracy, grad_norm, update_norm, update_ratio (to the weights' norm), limiter_divisor (the largest
    divisor that limited a matrix's update), tokens_per_second; SFT has no rejected side."""


@dataclass(frozen=True, kw_only=True)
class TrainResult(Checked):
    """An update in the shared weights, which a `checkpoint` makes durable; or the figures of a dry run."""

    steps: int
    reports: tuple[StepReport, ...]
    optimizer: Literal["continued", "fresh"]
    """Whether the optimizer continued from the parent's state; fresh also after a change of rank."""


@dataclass(frozen=True, kw_only=True)
class CheckpointResult(Checked):
    """A checkpoint on disk."""

    id: str
    weights_sha256: str
    optimizer_sha256: str | None
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Status(Checked):
    """The trainer's current work, reported even in mid-step."""

    pid: int
    doing: str
    """The verb in progress, or "idle"."""
    paused: bool
    """The update waits between two steps until `resume`."""
    step: int
    steps: int
    version: int
    """Of the shared weights."""
    dirty: bool
    holds: str
    """Id of the checkpoint in the shared weights; "" in mid-update."""
    replaced: bool
    """The server has made new shared weights: restart the trainer."""
