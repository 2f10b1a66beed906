"""Checkpoints on disk: weights, optimizer state and a manifest, under an id made of their content.

`<id>.json` is the manifest of a checkpoint, and the id is the SHA-256 of its bytes. The manifest names the
weights and the optimizer state, which are blobs in `blobs/` (see `blobs.py`), by their digests. The blobs are
durable before the manifest is, and the manifest before the ledger names the checkpoint.

Files that no checkpoint needs are swept into `trash/` (see `trash.py`).

Invariant: a file under its final name is whole, and the same content always has the same id. Everything is
verified before it is used. This module knows nothing about tensor libraries, agents or the ledger, nor about
the meaning of a manifest's further fields.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.aliases import Json
from corpus.errors import GateRefused, IntegrityFault, UnknownId, WriteFailed
from store.checkpoints.blobs import DIGEST, Blobs, StoredBlob, damage
from store.checkpoints.trash import Trash
from store.files import durable
from store.tensors.raw import RawTensor, Tensors, TensorSpecs

SPARE_BYTES = 64 * 1024 * 1024
"""Bytes that must stay free after a write, so that the ledger can still record the result."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of one checkpoint."""

    weights: str
    """Digest of the blob of the weights."""
    optimizer: str | None
    """Digest of the blob of the optimizer's state; None for a checkpoint without one."""
    parent: str | None
    """Id of the checkpoint from which this one was trained; None for checkpoint 0."""
    fields: Json
    """All fields as they are in the file, the three above among them."""

    @property
    def blobs(self) -> list[str]:
        """Digests of the blobs that the manifest names."""
        return [digest for digest in (self.weights, self.optimizer) if digest is not None]


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """The files of a checkpoint that `CheckpointStore.write` has written."""

    id: str
    weights_sha256: str
    optimizer_sha256: str | None
    nbytes: int
    """Bytes on disk of its blobs, including blobs that it shares with other checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One damaged or missing file."""

    checkpoint_id: str
    path: Path
    problem: str


class CheckpointStore:
    """The checkpoint files in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = Blobs(directory / "blobs")
        self.trash = Trash(directory / "trash")

    def write(
        self,
        weights: Tensors,
        optimizer: Tensors | None,
        manifest_fields: Mapping[str, Any],
    ) -> CheckpointFiles:
        """Write a checkpoint and return its id and digests; if that fails, no new file is left behind.

        Content that is stored already is not written again.

        Args:
            weights: The tensors of the weights.
            optimizer: The tensors of the optimizer's state; None for a checkpoint without one.
            manifest_fields: Further fields of the manifest. If `parent`, the id of another checkpoint, is
                one of them, the weights may be stored as a delta. No field may hold a time, uuid or path,
                because a repeated night must give the same id.
        """
        if forbidden := {"weights", "optimizer"} & manifest_fields.keys():
            raise ValueError(f"manifest fields {sorted(forbidden)} are set by the store")
        before = set(self.blobs.files())
        try:
            return self._written(weights, optimizer, {"parent": None, **manifest_fields})
        except WriteFailed:
            with suppress(OSError):  # the next start sweeps what stays
                durable.remove(set(self.blobs.files()) - before, "orphans")
            raise

    def _written(
        self,
        weights: Tensors,
        optimizer: Tensors | None,
        manifest: Mapping[str, Any],
    ) -> CheckpointFiles:
        """Write the blobs and then the manifest with these fields; return the checkpoint's files."""
        weights_sha256, nbytes = self.blobs.write(weights, near=self._weights_of(manifest["parent"]))
        optimizer_sha256 = None
        if optimizer is not None:
            optimizer_sha256, more = self.blobs.write(optimizer, whole=True, what="optimizer")
            nbytes += more
        text = canonical({**manifest, "weights": weights_sha256, "optimizer": optimizer_sha256})
        with durable.new_file(self.directory, "manifest") as file:
            file.write(text)
            checkpoint_id = file.sha256
            file.keep(f"{checkpoint_id}.json")
        return CheckpointFiles(
            id=checkpoint_id, weights_sha256=weights_sha256, optimizer_sha256=optimizer_sha256, nbytes=nbytes
        )

    def manifest(self, checkpoint_id: str) -> Manifest:
        """Return the verified manifest of a checkpoint."""
        path = self._manifest_path(checkpoint_id)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityFault(damage(path, "is missing")) from None
        if hashlib.sha256(text).hexdigest() != checkpoint_id:
            raise IntegrityFault(damage(path, "does not match its digest"))
        fields: Json = json.loads(text)
        named = {name: fields[name] for name in ("weights", "optimizer", "parent")}
        return Manifest(**named, fields=fields)

    def load_weights(self, checkpoint_id: str) -> dict[str, RawTensor]:
        """Return the verified weights of a checkpoint by name; changes to them never reach the file."""
        return self.blobs.load(self.manifest(checkpoint_id).weights)

    def load_optimizer(self, checkpoint_id: str) -> dict[str, RawTensor] | None:
        """Return the verified optimizer state of a checkpoint; None if it has none or it was dropped."""
        digest = self._state_of(self.manifest(checkpoint_id))
        return None if digest is None else self.blobs.load(digest)

    def has_state(self, checkpoint_id: str) -> bool:
        """Return whether a checkpoint has an optimizer state that was not dropped."""
        return self._state_of(self.manifest(checkpoint_id)) is not None

    def specs(self, checkpoint_id: str) -> TensorSpecs:
        """Return the type and shape of every tensor of a checkpoint's weights, by name."""
        return self.blobs.specs(self.manifest(checkpoint_id).weights)

    def put_weights(
        self,
        checkpoint_id: str,
        target: Tensors,
        begin: Callable[[], None],
        *,
        held_id: str = "",
    ) -> None:
        """Write the weights of a checkpoint into the target's buffers.

        Args:
            checkpoint_id: The checkpoint.
            target: Buffers of the same names, types and shapes.
            begin: Called before the first byte is written, once everything is verified; it may be called
                twice.
            held_id: The checkpoint whose weights the target should hold now; "" if that is unknown. If both
                checkpoints are stored against the same base, only the differences are written.
        """
        self.blobs.put(self.manifest(checkpoint_id).weights, target, begin, held=self._weights_of(held_id))

    def stored(self, checkpoint_id: str) -> StoredBlob:
        """Return how the weights of a checkpoint are stored."""
        return self.blobs.stored(self.manifest(checkpoint_id).weights)

    def verify(
        self, checkpoint_ids: Iterable[str], *, sample: Callable[[str], bool] = lambda _: True
    ) -> list[Fault]:
        """Verify checkpoints; return their damaged and missing files.

        Args:
            checkpoint_ids: The checkpoints, whose manifests are all verified.
            sample: Takes a checkpoint's id and returns whether its blobs are verified too.
        """
        problems: dict[str, str | None] = {}
        faults = []
        for checkpoint_id in checkpoint_ids:
            try:
                manifest = self.manifest(checkpoint_id)
            except IntegrityFault as fault:
                path = self._manifest_path(checkpoint_id)
                faults.append(Fault(checkpoint_id=checkpoint_id, path=path, problem=str(fault)))
                continue
            for digest in manifest.blobs if sample(checkpoint_id) else ():
                if digest not in problems:
                    dropped = digest != manifest.weights and self.blobs.is_dropped(digest)
                    problems[digest] = None if dropped else self.blobs.problem(digest)
                if problem := problems[digest]:
                    path = self.blobs.path(digest)
                    faults.append(Fault(checkpoint_id=checkpoint_id, path=path, problem=problem))
        return faults

    def drop_states(self, checkpoint_ids: Iterable[str], *, but: Iterable[str]) -> None:
        """Drop the optimizer states of these checkpoints, unless a checkpoint in `but` has the same state."""
        kept = {self.manifest(checkpoint_id).optimizer for checkpoint_id in but}
        for digest in {self.manifest(checkpoint_id).optimizer for checkpoint_id in checkpoint_ids} - kept:
            if digest is not None:
                self.blobs.drop(digest)

    def ids(self) -> list[str]:
        """Return the ids of all checkpoints whose manifest is here, damaged ones included, sorted."""
        return sorted(path.stem for path in self.directory.glob("*.json") if DIGEST.fullmatch(path.stem))

    def sweep(self, keep_ids: Iterable[str]) -> list[Path]:
        """Move the files that no checkpoint in `keep_ids` needs to the trash; return the paths they had.

        Unfinished files are deleted, because nothing can be made of them. Call it only while no process
        writes, and only with the ids of the ledger to which these files belong (see `store.belonging`).

        Raises:
            IntegrityFault: The manifest of a checkpoint to keep is damaged, so its blobs are unknown; nothing
                was moved.
        """
        keep: set[Path] = set()
        for checkpoint_id in keep_ids:
            keep.add(self._manifest_path(checkpoint_id))
            keep |= self.blobs.needed(self.manifest(checkpoint_id).blobs)
        orphans = [path for path in self._files() if path not in keep]
        durable.remove([path for path in orphans if path.suffix == ".tmp"], "orphans")
        self.trash.take(path for path in orphans if path.suffix != ".tmp")
        return orphans

    def put_back(self) -> list[Path]:
        """Move every file from the trash to its place, unless that is taken; return which came back."""
        places = (
            (self.directory if path.suffix == ".json" else self.blobs.folder) / path.name
            for path in self.trash.files()
        )
        return self.trash.put_back(list(places))

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of processes that died; call it only while no process writes."""
        folders = (self.directory, self.blobs.folder)
        durable.remove([path for folder in folders for path in durable.leftovers(folder)], "orphans")

    def require_space(self, nbytes: int) -> None:
        """Raise GateRefused unless `nbytes` can be written with `SPARE_BYTES` to spare."""
        durable.make_folder(self.blobs.folder)
        free = shutil.disk_usage(self.blobs.folder).free
        if free < nbytes + SPARE_BYTES:
            raise GateRefused(
                f"a checkpoint needs {(nbytes + SPARE_BYTES) / 1e6:.0f} MB in {self.directory} and "
                f"{free / 1e6:.0f} MB are free; free some space, or run "
                "`nightschool checkpoints prune --empty-trash`"
            )

    def _weights_of(self, checkpoint_id: str | None) -> str | None:
        """Return the digest of a checkpoint's weights; None if its manifest is missing or damaged.

        Without a checkpoint ("" or None) the result is None too.
        """
        try:
            return self.manifest(checkpoint_id).weights if checkpoint_id else None
        except (IntegrityFault, UnknownId):
            return None

    def _state_of(self, manifest: Manifest) -> str | None:
        """Return the digest of the optimizer state; None if there is none or it was dropped."""
        digest = manifest.optimizer
        return None if digest is None or self.blobs.is_dropped(digest) else digest

    def _files(self) -> Iterator[Path]:
        """Yield every file that this store may have written."""
        for pattern in ("*.json", "*.tmp"):
            yield from sorted(self.directory.glob(pattern))
        yield from self.blobs.files()

    def _manifest_path(self, checkpoint_id: str) -> Path:
        if not DIGEST.fullmatch(checkpoint_id):
            raise UnknownId(
                f"{checkpoint_id!r} is not a checkpoint id; `nightschool checkpoints list` shows all"
            )
        return self.directory / f"{checkpoint_id}.json"


def canonical(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest as canonical JSON: sorted keys, no spaces, no NaN."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
