"""Results of nights, of dry runs, of measurements, and of questions to the served model."""

from dataclasses import dataclass
from typing import Literal

from store.nights.results import NightReport


@dataclass(frozen=True, kw_only=True)
class NightBegun:
    """A night that has begun or was running already."""

    night: str
    """Id of the night."""


@dataclass(frozen=True, kw_only=True)
class NightResult(NightReport):
    """The result of a night that has ended."""

    seconds: float
    """Seconds that the operation took."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """The update that a night would make from the pairs in the ledger."""

    dry_run: Literal[True] = True
    checkpoint: str
    """Id of the active checkpoint, from which the steps are computed."""
    objective: str
    """Name of the training objective."""
    of: str
    """The source of the pairs: new pairs, the last kept update, or nothing."""
    pairs: int
    """Number of new pairs."""
    replay: int
    """Number of replayed pairs."""
    conversations: int
    """Number of conversations from which no lessons have been extracted yet."""
    lessons: int
    """Number of new lessons, from which a night would make further pairs first."""
    targets: list[str]
    """Names of the behaviours of these lessons."""
    reasons: list[str]
    """Remarks on the pairs, and the reason for which the update would be refused."""
    steps: list[dict[str, int | float]]
    """For each training step: its number `step`, the number of all `steps`, and its metrics."""


@dataclass(frozen=True, kw_only=True)
class CancelledUpdate:
    """An update that was cancelled during training."""

    night: str
    update: str
    reasons: list[str]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer of the served model, and the weights that gave it."""

    answer: str
    checkpoint: str
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class PassRate:
    """A behaviour's pass rate on the held-out scenarios."""

    name: str
    counter_of: str | None
    """The behaviour that this counter-behaviour guards; None for a behaviour."""
    passed: int
    """Number of scenarios that passed."""
    trials: int
    """Number of scenarios."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The pass rates of all behaviours on the active weights."""

    weights_sha256: str
    behaviours: list[PassRate]
