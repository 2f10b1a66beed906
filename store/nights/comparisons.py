"""The records that `lineage` returns for the difference between two checkpoints.

Invariant: as in `results`, the fields of a record are the keys of its JSON, and no field is renamed.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from store.nights.results import BeforeAfter, PassCount, UpdatePairs
from store.readings.records import MovedReadings


@dataclass(frozen=True, kw_only=True)
class ComparedCheckpoint:
    """A summary of one of two compared checkpoints."""

    id: str
    number: int
    state: str
    weights_sha256: str
    pruned: str | None
    at: str


@dataclass(frozen=True, kw_only=True)
class ComparedBehaviour:
    """One behaviour that was measured on both of two compared checkpoints."""

    name: str
    counter_of: str | None = None
    """For a counter-behaviour, its behaviour; the ledger does not have it, so the caller fills it in."""
    current: bool
    """Whether the behaviour's definition is the same now as at the measurements."""
    same_scenarios: bool
    """Whether both counts are over the same scenarios; if not, each is over all scenarios of its side."""
    before: PassCount
    after: PassCount
    gained: int | None
    """Number of scenarios that turned from failed to passed; None if the scenarios are not the same."""
    lost: int | None
    """Number of scenarios that turned from passed to failed; None if the scenarios are not the same."""


@dataclass(frozen=True, kw_only=True)
class ReadingMove:
    """How far one reading moved between two checkpoints."""

    name: str
    before: float
    after: float
    move: float
    """`after` minus `before`, in standard deviations of the reading before."""


@dataclass(frozen=True, kw_only=True)
class LineageStep:
    """A checkpoint between two compared ones, with the update that made it."""

    checkpoint: str
    number: int
    update: str | None
    objective: str | None
    targets: list[str]
    pairs: UpdatePairs | None
    moves: MovedReadings | None


@dataclass(frozen=True, kw_only=True)
class CheckpointDifference:
    """The difference between two checkpoints, as far as the ledger has it."""

    from_: Annotated[ComparedCheckpoint, Field(alias="from")]
    to: ComparedCheckpoint
    behaviours: list[ComparedBehaviour]
    readings: list[ReadingMove]
    """The largest move first."""
    perplexity: BeforeAfter
    common: str | None
    """Id of the newest checkpoint from which both grew; None without one."""
    removed: list[LineageStep]
    """The steps from `common` to the first checkpoint, oldest first."""
    added: list[LineageStep]
    """The steps from `common` to the second checkpoint, oldest first."""
