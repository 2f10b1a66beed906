"""The requests to the trainer and its results, as plain records without torch.

Invariant: a request holds everything that its result depends on. This module does not define how records are
sent: `wire.py` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from agents.model.steering.wire import MAX_STRENGTH, Direction
from corpus.errors import TrainerFault

DEFAULT_RANK = 64
"""Number of rows of Apollo's projection matrix."""
NORM_GROWTH_LIMIT = 1.01
"""Largest ratio of an update's norm to the previous one's (gamma of arXiv 2412.05270, section 4)."""
PROJECTION_REFRESH = 200
"""Number of steps after which a new projection is drawn."""
Objective = Literal["orpo", "dpo", "dpop", "simpo", "kto", "sft"]


class Checked:
    """Base of the records that are checked on arrival: unknown fields, NaN and infinity are refused."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """The settings that an update trains with."""

    lr: float | Literal["auto"]
    """Peak learning rate. `auto`: found from the relative size of the update's first step, with warm-up."""
    batch_size: int = 8
    """Examples in one step."""
    epochs: int = 1
    """Passes over the examples."""
    beta: float = 0.1
    """Lambda of ORPO; beta of DPO, DPOP, SimPO and KTO."""
    dpop_penalty: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """Lambda of DPOP: the weight of the penalty on a chosen answer that becomes less likely."""
    simpo_margin: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Gamma of SimPO: by how much the chosen answer's reward should exceed the rejected answer's."""
    desirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """KTO's lambda_D: the weight of the chosen answers."""
    undesirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """KTO's lambda_U: the weight of the rejected answers."""
    norm_cap: float = 0.1
    """Largest norm of one step's change, as a share of the weights' norm. A larger step is not made, and the
    whole update is refused."""
    rank: int = DEFAULT_RANK
    """Rank of the projection (Apollo)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments (Apollo)."""
    eps: float = 1e-8
    """Small number added to the denominator, so that it is never 0 (Apollo)."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay (Apollo)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Number of warm-up steps, counted over all updates since the optimizer's state was new (Apollo)."""
    scale: float | None = None
    """Alpha, the factor on a matrix's update (Apollo). Unset: sqrt(n / rank), where n is the matrix's smaller
    side."""
    proj_refresh: int = PROJECTION_REFRESH
    """Number of steps after which a new projection is drawn (Apollo)."""
    norm_growth_limit: float = NORM_GROWTH_LIMIT
    """Largest ratio of a step's norm to the norm of the step before (Apollo)."""
    projection: Literal["gaussian", "sketch"] = "gaussian"
    """Kind of projection (Apollo): gaussian, as in the paper, or sketch, a count sketch, which is
    faster."""
    reset_limiter: bool = False
    """Whether the norm growth limit is off for the first step of an update, which otherwise is compared with
    the last step of the update before (Apollo)."""
    master_weights: bool = False
    """Whether a float32 copy of bfloat16 weights is kept with the optimizer's state. The copy is for learning
    rates so small that rounding to bfloat16 would hide the steps."""
    context_gradient: bool = False
    """Whether gradients flow through the context too. The gradient is then exact, and a step takes about
    twice as long."""
    micro_batch: int = 0
    """Number of examples in one pass; the gradients of a step's passes are added up. 0: one pass for all
    examples of a step."""
    compute: Literal["auto", "weights", "bfloat16"] = "weights"
    """Type in which the trainer multiplies matrices: `weights` is that of the weights; `bfloat16` is quicker
    on some processors, and its results differ in their last bits. `auto`: bfloat16 on processors with AMX.
    Weights, gradients and the optimizer's state keep their types."""
    activation_checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of being stored. This takes less
    memory and more time."""
    prevent: Mapping[str, float] = field(default_factory=dict)
    """Concepts that the model is steered towards while an update trains, each with a strength, such as
    `{echoing = 20.0}`. The model shows these concepts because of the steering, so training need not move the
    weights towards them."""

    def __post_init__(self) -> None:
        """Raise TrainerFault if a setting is out of range."""
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
            value = getattr(self, name)
            if not (value == "auto" or value > 0 or (value == 0 and name in self._chosen_if_zero())):
                raise TrainerFault(f"the training setting {name} must be above 0")
        if not all(abs(strength) <= MAX_STRENGTH for strength in self.prevent.values()):  # false for NaN too
            raise TrainerFault(
                f"the training setting prevent has strengths from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
            )
        if self.micro_batch < 0:
            raise TrainerFault("the training setting micro_batch must be 0 or above")

    def _chosen_if_zero(self) -> tuple[str, ...]:
        """Return the names of the settings for which 0 means that the program chooses the value."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Example:
    """One context with the answer to learn and, for a pair, the answer to avoid."""

    context: Sequence[int]
    """Token ids, at least one."""
    chosen: Sequence[int]
    rejected: Sequence[int] = ()
    """Empty for SFT."""
    weight: float = 1.0
    """Trust in the example's source, 0 to 1. The example's loss is multiplied by this number."""
    reference_chosen: float | None = None
    """Summed log-probability (nats) of the chosen answer under the reference weights. None: if the objective
    needs it, the trainer computes it with the parent's weights."""
    reference_rejected: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A request for one update, which starts from the parent's weights and optimizer state."""

    objective: Objective
    settings: Settings
    seed: int
    parent: str
    """Id of the checkpoint to start from."""
    examples: Sequence[Example]
    prevent: Sequence[Direction] = ()
    """The steering directions for `settings.prevent`, made from the home's concept vectors."""
    dry_run: bool = False
    """Whether to compute every step's loss, gradients and norm at the parent's weights, and change
    nothing."""


@dataclass(frozen=True, kw_only=True)
class StepReport(Checked):
    """A report on one completed step."""

    step: int
    """From 1."""
    steps: int
    """Number of steps of the update."""
    metrics: Mapping[str, float]
    """The step's metrics by name: loss, chosen_logprob, rejected_logprob (nats per token), chosen_reward,
    rejected_reward, margin, accuracy, lr (this step's learning rate), grad_norm, update_norm, update_ratio
    (update_norm divided by the weights' norm), limiter_divisor (the largest divisor that limited a matrix's
    update), tokens_per_second. SFT has no rejected answers, and no metrics of them. If the rate was found,
    step 1 has the share that it was found from, as first_share."""


@dataclass(frozen=True, kw_only=True)
class TrainResult(Checked):
    """The result of an update in the shared weights, or of a dry run.

    The request `checkpoint` saves the update.
    """

    steps: int
    reports: tuple[StepReport, ...]
    lr: float
    """Peak learning rate, given or found."""
    first_share: float | None
    """Norm of a fresh optimizer's first step at the peak rate, as a share of the weights' norm. None: the
    rate was given, and nothing was measured."""
    compute: Literal["weights", "bfloat16"]
    """Type in which matrices were multiplied: see `Settings.compute`."""
    optimizer: Literal["continued", "fresh"]
    """"continued": the optimizer started from the parent's state. "fresh": the parent has no state, or its
    state does not fit the settings, for example after a change of `rank`."""


@dataclass(frozen=True, kw_only=True)
class CheckpointResult(Checked):
    """A checkpoint on disk."""

    id: str
    weights_sha256: str
    optimizer_sha256: str | None
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Status(Checked):
    """The trainer's current state, which it reports even in mid-step."""

    pid: int
    doing: str
    """The verb in progress, or "idle"."""
    paused: bool
    """Whether the update waits between two steps until `resume`."""
    step: int
    steps: int
    version: int
    """Version of the shared weights."""
    dirty: bool
    holds: str
    """Id of the checkpoint in the shared weights; "" in mid-update."""
    replaced: bool
    """Whether the server has made new shared weights. If so, the trainer must be restarted."""
