"""Results about checkpoints and task vectors."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from corpus.aliases import Json
from store.nights.results import CheckpointDetails, CheckpointDifference, CheckpointListing
from store.task_vectors.merges import WeightedVector
from store.tensors.changes import Figures


@dataclass(frozen=True, kw_only=True)
class StoredForm:
    """The form in which a checkpoint is stored on disk."""

    kind: str
    nbytes: int
    base: str | None
    optimizer: bool
    """Whether the optimizer's state is stored with it."""


@dataclass(frozen=True, kw_only=True)
class ListedCheckpoint(CheckpointListing):
    """One checkpoint in the list of all, with its size."""

    nbytes: int | None
    """Bytes of its weights on disk; None if they are pruned or damaged."""


@dataclass(frozen=True, kw_only=True)
class CheckpointList:
    """All checkpoints, oldest first."""

    checkpoints: list[ListedCheckpoint]


@dataclass(frozen=True, kw_only=True)
class CheckpointReport(CheckpointDetails):
    """Everything about one checkpoint, from the ledger and from its files."""

    form: StoredForm | None
    manifest: Json | None
    problem: str | None
    """The damage, if the files cannot be read."""


@dataclass(frozen=True, kw_only=True)
class _AtLayer:
    layer: int | None
    """None for weights outside the layers."""


@dataclass(frozen=True, kw_only=True)
class _AtKind:
    kind: str


@dataclass(frozen=True, kw_only=True)
class _AtHead:
    layer: int | None
    kind: str
    head: int
    tensor: str


@dataclass(frozen=True, kw_only=True)
class LayerChange(Figures, _AtLayer):
    """How much the weights of one layer changed."""


@dataclass(frozen=True, kw_only=True)
class KindChange(Figures, _AtKind):
    """How much the weights of one kind changed."""


@dataclass(frozen=True, kw_only=True)
class HeadChange(Figures, _AtHead):
    """How much the weights of one attention head changed."""


@dataclass(frozen=True, kw_only=True)
class WeightChanges:
    """How much the weights changed: in all, and by layer, kind and head."""

    whole: Figures
    layers: list[LayerChange]
    kinds: list[KindChange]
    heads: list[HeadChange]
    """The largest change first."""
    only_in_one: list[str]
    """Tensors that were not compared."""


@dataclass(frozen=True, kw_only=True)
class Difference(CheckpointDifference):
    """The difference of two checkpoints, from the ledger and from their files."""

    weights: WeightChanges | None
    """None if the files of one of them were pruned."""
    note: str | None


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A file of an export."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Export:
    """A checkpoint as a Hugging Face directory."""

    checkpoint: str
    weights_sha256: str
    directory: str
    model: str
    files: list[ExportedFile]
    nbytes: int
    copied_tensors: list[str]
    """Tensors that are not trained, taken from the model's own directory."""
    retyped_tensors: list[str]
    """Tensors whose type in the model's directory would lose bits."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Whether `prune` may delete a checkpoint's files."""

    checkpoint: str
    number: int
    pinned: bool
    changed: bool


@dataclass(frozen=True, kw_only=True)
class PrunedCheckpoint:
    """A checkpoint whose files a prune deletes."""

    id: str
    number: int
    state: str
    at: str


@dataclass(frozen=True, kw_only=True)
class RetainedCheckpoint(PrunedCheckpoint):
    """A checkpoint that a prune keeps."""

    reasons: list[str]


@dataclass(frozen=True, kw_only=True)
class Prune:
    """A prune, or the dry run of one."""

    dry_run: bool
    pruned: list[PrunedCheckpoint]
    kept: list[RetainedCheckpoint]
    reachable: list[str]
    """Checkpoints that a rollback can go to."""
    freed_bytes: int


@dataclass(frozen=True, kw_only=True)
class DamagedFile:
    """A file that differs from what its checkpoint's manifest names."""

    checkpoint: str
    path: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The findings of `checkpoints verify`."""

    checkpoints: int
    hashed: int
    pruned: int
    sample: float
    damaged: list[DamagedFile]
    ledger: list[str]
    """Faults in the ledger."""


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A rollback, or the dry run of one."""

    from_: Annotated[str, Field(alias="from")]
    to: str
    weights_sha256: str
    undone: list[str]
    restored: list[str]
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class ImmediateRollback(Rollback):
    """A rollback with `--now`."""

    night: str | None
    """The night that it ended."""


@dataclass(frozen=True, kw_only=True)
class KindChangeSize:
    """How much a task vector changes the weights of one kind."""

    kind: str
    norm: float
    changed: int
    elements: int


@dataclass(frozen=True, kw_only=True)
class TaskVectorReport:
    """What an update, or a range of updates, added to the weights."""

    from_: Annotated[str, Field(alias="from")]
    to: str
    updates: list[str]
    norm: float
    changed: int
    elements: int
    kinds: list[KindChangeSize]
    out: str | None
    """The file to which it was written."""


@dataclass(frozen=True, kw_only=True)
class MergePairs:
    """Numbers of pairs that a merge learns and unlearns."""

    learnt: int
    unlearnt: int


@dataclass(frozen=True, kw_only=True)
class MergeDryRun:
    """The dry run of a merge."""

    dry_run: Literal[True] = True
    checkpoint: str
    method: str
    density: float | None
    parts: tuple[WeightedVector, ...]
    unlearn: tuple[str, ...]
    rise: tuple[str, ...]
    pairs: MergePairs
    reasons: list[str]
    norm: float
    changed: int
    elements: int
    kinds: list[KindChangeSize]
