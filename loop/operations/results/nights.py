"""Results of nights, of dry runs, of measurements, and of questions to the served model."""

from dataclasses import dataclass
from typing import Literal

from store.nights.results import NightReport


@dataclass(frozen=True, kw_only=True)
class NightBegun:
    """A night that has started."""

    night: str


@dataclass(frozen=True, kw_only=True)
class NightResult(NightReport):
    """A night at its end."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """The update that a night would make from the pairs at hand."""

    dry_run: Literal[True] = True
    checkpoint: str
    objective: str
    of: str
    """The source of the pairs: new pairs, the last kept update, or nothing."""
    pairs: int
    replay: int
    conversations: int
    """Number of conversations from which no lessons have been extracted yet."""
    lessons: int
    """Number of lessons of which a night would first dream."""
    targets: list[str]
    reasons: list[str]
    steps: list[dict[str, int | float]]
    """`step`, `steps`, and the metrics of each step."""


@dataclass(frozen=True, kw_only=True)
class CancelledUpdate:
    """An update that was cancelled during training."""

    night: str
    update: str
    reasons: list[str]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer of the served model."""

    answer: str
    checkpoint: str
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class PassRate:
    """A behaviour's pass rate on the held-out scenarios."""

    name: str
    counter_of: str | None
    passed: int
    trials: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The pass rates of the active weights."""

    weights_sha256: str
    behaviours: list[PassRate]
