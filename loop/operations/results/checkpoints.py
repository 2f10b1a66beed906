"""Results about checkpoints and task vectors."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from corpus.aliases import Json
from store.nights.comparisons import CheckpointDifference
from store.nights.results import CheckpointDetails, CheckpointListing
from store.task_vectors.merges import WeightedVector
from store.tensors.changes import Figures


@dataclass(frozen=True, kw_only=True)
class StoredForm:
    """The form in which a checkpoint is stored on disk."""

    kind: str
    """Format of the stored weights: whole, delta (a difference from other stored weights) or packed."""
    nbytes: int
    """Bytes of the weights on disk."""
    base: str | None
    """Digest of the stored weights from which a delta starts; None for the other formats."""
    optimizer: bool
    """Whether the optimizer's state is stored too."""


@dataclass(frozen=True, kw_only=True)
class ListedCheckpoint(CheckpointListing):
    """One checkpoint in the list of all checkpoints, with its size."""

    nbytes: int | None
    """Bytes of the checkpoint's weights on disk; None if the weights are pruned or damaged."""


@dataclass(frozen=True, kw_only=True)
class CheckpointList:
    """All checkpoints, oldest first."""

    checkpoints: list[ListedCheckpoint]


@dataclass(frozen=True, kw_only=True)
class CheckpointReport(CheckpointDetails):
    """Everything about one checkpoint, from the ledger and from its files."""

    form: StoredForm | None
    """The form of the files; None if they are pruned or damaged."""
    manifest: Json | None
    """The checkpoint's manifest; None if it is pruned or damaged."""
    problem: str | None
    """A description of the damage; None if the files can be read, or are pruned."""


@dataclass(frozen=True, kw_only=True)
class _AtLayer:
    layer: int | None
    """Number of the layer; None for weights outside the layers."""


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
    """The changes of the attention heads, the largest first."""
    only_in_one: list[str]
    """Names of the tensors that could not be compared, because one checkpoint lacks them or their shapes
    differ."""


@dataclass(frozen=True, kw_only=True)
class Difference(CheckpointDifference):
    """The differences between two checkpoints, from the ledger and from their files."""

    weights: WeightChanges | None
    """The changes of the weights; None if the files of one of the checkpoints were pruned."""
    note: str | None
    """The reason why a part of the comparison is missing; None if the comparison is complete."""


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One file of an exported checkpoint."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Export:
    """A checkpoint that was written as a Hugging Face directory."""

    checkpoint: str
    weights_sha256: str
    directory: str
    model: str
    files: list[ExportedFile]
    nbytes: int
    copied_tensors: list[str]
    """Names of the tensors that are not trained and were copied from the model's own directory."""
    retyped_tensors: list[str]
    """Names of the tensors that were written with another type than the model's, which would lose bits."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """The result of `pin` or `unpin`: whether a checkpoint is now protected from `prune`."""

    checkpoint: str
    number: int
    pinned: bool
    changed: bool
    """Whether the operation changed `pinned`."""


@dataclass(frozen=True, kw_only=True)
class PrunedCheckpoint:
    """A checkpoint whose files a prune deletes."""

    id: str
    number: int
    state: str
    at: str


@dataclass(frozen=True, kw_only=True)
class RetainedCheckpoint(PrunedCheckpoint):
    """A checkpoint that a prune keeps, with the reasons."""

    reasons: list[str]


@dataclass(frozen=True, kw_only=True)
class Prune:
    """The result of a prune, or of its dry run."""

    dry_run: bool
    pruned: list[PrunedCheckpoint]
    kept: list[RetainedCheckpoint]
    reachable: list[str]
    """Ids of the checkpoints to which a rollback is possible after the prune."""
    freed_bytes: int
    """Bytes of the files that only the pruned checkpoints needed."""
    trash_bytes: int
    """Bytes in the trash afterwards; each file is deleted after `checkpoints.trash_days`."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """The result of a `recover`."""

    active: str
    """Id of the active checkpoint."""
    number: int
    """Number of the active checkpoint."""
    entered: list[str]
    """Ids of the checkpoints that the ledger did not have, oldest first."""
    damaged: list[str]
    """Ids of the checkpoints on the disk whose files are damaged."""
    put_back: int
    """Number of files that came back from the trash."""
    known: bool
    """Whether the files said which checkpoint was active; if not, the newest certainly kept one is."""


@dataclass(frozen=True, kw_only=True)
class DamagedFile:
    """A file that differs from its entry in a checkpoint's manifest."""

    checkpoint: str
    path: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The findings of `checkpoints verify`."""

    checkpoints: int
    """Number of stored checkpoints, whose manifests were all read."""
    hashed: int
    """Number of checkpoints whose files were hashed."""
    pruned: int
    """Number of checkpoints without files, because they were pruned."""
    sample: float
    """Share of the checkpoints that was drawn for hashing, above 0 and up to 1."""
    damaged: list[DamagedFile]
    ledger: list[str]
    """Descriptions of the faults that were found in the ledger."""


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """The result of a rollback, or of its dry run."""

    from_: Annotated[str, Field(alias="from")]
    """Id of the checkpoint that was active before."""
    to: str
    """Id of the checkpoint that is active afterwards."""
    weights_sha256: str
    """Digest of the weights of that checkpoint."""
    undone: list[str]
    """Ids of the updates that the rollback undoes."""
    restored: list[str]
    """Ids of the undone updates that the rollback makes part of the weights again."""
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class ImmediateRollback(Rollback):
    """The result of a rollback with `--now`."""

    night: str | None
    """Id of the night that the rollback ended; None if none was running."""


@dataclass(frozen=True, kw_only=True)
class KindChangeSize:
    """How much a task vector changes the weights of one kind."""

    kind: str
    norm: float
    """Norm of the change."""
    changed: int
    """Number of elements that the task vector changes."""
    elements: int
    """Number of all elements of these weights."""


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
    """The file to which the task vector was written; None if it was not written."""


@dataclass(frozen=True, kw_only=True)
class MergePairs:
    """Numbers of the pairs that a merge learns and of those that it unlearns."""

    learnt: int
    unlearnt: int


@dataclass(frozen=True, kw_only=True)
class MergeDryRun:
    """The result of the dry run of a merge."""

    dry_run: Literal[True] = True
    checkpoint: str
    method: str
    density: float | None
    parts: tuple[WeightedVector, ...]
    unlearn: tuple[str, ...]
    """Names of the behaviours that the merge means to unlearn."""
    rise: tuple[str, ...]
    """Names of the behaviours that the merge means to improve."""
    pairs: MergePairs
    reasons: list[str]
    norm: float
    changed: int
    elements: int
    kinds: list[KindChangeSize]
