"""Checkpoint files: everything that an update changes, on disk, under the digest of its content.

`blobs/<sha256>.safetensors` hold the numbers, `<id>.json` names them; the id is the SHA-256 of the manifest's
bytes. Data is durable before the manifest that names it, and the manifest before the ledger's pointer.

Invariant: a file under its final name is whole, and the same content always has the same name. Whatever is
read is hashed first. Knows no tensor library, no agent and no ledger: what the fields mean is the caller's.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.errors import GateRefused, IntegrityFault, UnknownId
from store.tensors import RawTensor, parse, pieces

_BLOBS = ("weights", "optimizer")
"""Manifest keys that name blobs: only the store sets them."""
SPARE_BYTES = 64 * 1024 * 1024
"""Room that must be left after a write, so that the ledger can still say what happened."""
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """What `write` left on disk."""

    id: str
    weights_sha256: str
    optimizer_sha256: str | None
    nbytes: int
    """Bytes of the blobs that it names, shared or not."""


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
        self.blobs = directory / "blobs"

    def write(
        self,
        weights: Mapping[str, RawTensor],
        optimizer: Mapping[str, RawTensor] | None,
        manifest_fields: Mapping[str, Any],
    ) -> CheckpointFiles:
        """Write a checkpoint; content that is there already is not written again.

        `manifest_fields` must hold no time, uuid or path: the id is to be the same on a repeated night.
        """
        if forbidden := set(_BLOBS) & manifest_fields.keys():
            raise ValueError(f"manifest fields {sorted(forbidden)} are set by the store")
        self.blobs.mkdir(parents=True, exist_ok=True)
        weights_sha256, nbytes = self._write_blob(weights)
        optimizer_sha256 = None
        if optimizer is not None:
            optimizer_sha256, more = self._write_blob(optimizer)
            nbytes += more
        manifest = {"parent": None, **manifest_fields}
        manifest |= {"weights": weights_sha256, "optimizer": optimizer_sha256}
        text = canonical(manifest)
        checkpoint_id = hashlib.sha256(text).hexdigest()
        self._place([text], self.directory, lambda digest: f"{digest}.json")
        return CheckpointFiles(
            id=checkpoint_id, weights_sha256=weights_sha256, optimizer_sha256=optimizer_sha256, nbytes=nbytes
        )

    def manifest(self, checkpoint_id: str) -> dict[str, Any]:
        """The manifest of this checkpoint, its digest checked."""
        path = self._manifest_path(checkpoint_id)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityFault(_advice(path, "is missing")) from None
        if hashlib.sha256(text).hexdigest() != checkpoint_id:
            raise IntegrityFault(_advice(path, "does not match its digest"))
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def load_weights(self, checkpoint_id: str) -> dict[str, RawTensor]:
        """The weights of this checkpoint, their digest checked."""
        return self._load_blob(self.manifest(checkpoint_id)["weights"])

    def load_optimizer(self, checkpoint_id: str) -> dict[str, RawTensor] | None:
        """The optimizer's state after this checkpoint, its digest checked; None when it has none."""
        digest = self.manifest(checkpoint_id)["optimizer"]
        return None if digest is None else self._load_blob(digest)

    def weights_bytes(self, checkpoint_id: str) -> int:
        """Size of this checkpoint's weights on disk."""
        return self._blob_path(self.manifest(checkpoint_id)["weights"]).stat().st_size

    def verify(self, checkpoint_ids: Iterable[str]) -> list[Fault]:
        """Hash every file of these checkpoints; returns what is damaged or missing, [] when all is well."""
        seen: dict[str, str | None] = {}
        faults = []
        for checkpoint_id in checkpoint_ids:
            try:
                manifest = self.manifest(checkpoint_id)
            except IntegrityFault as fault:
                path = self._manifest_path(checkpoint_id)
                faults.append(Fault(checkpoint_id=checkpoint_id, path=path, problem=str(fault)))
                continue
            for digest in filter(None, (manifest[key] for key in _BLOBS)):
                if digest not in seen:
                    seen[digest] = self._problem(digest)
                if problem := seen[digest]:
                    path = self._blob_path(digest)
                    faults.append(Fault(checkpoint_id=checkpoint_id, path=path, problem=problem))
        return faults

    def sweep(self, keep_ids: Iterable[str]) -> list[Path]:
        """Remove what no kept checkpoint names, and unfinished files; returns what was removed.

        Only while nobody writes: at the start, before there is a trainer. A damaged manifest that is to be
        kept raises, and nothing is removed: without it nobody knows which blobs it needs.
        """
        keep: set[Path] = set()
        for checkpoint_id in keep_ids:
            manifest = self.manifest(checkpoint_id)
            keep.add(self._manifest_path(checkpoint_id))
            digests = filter(None, (manifest[key] for key in _BLOBS))
            keep.update(self._blob_path(digest) for digest in digests)
        orphans = [path for path in self._files() if path not in keep]
        for path in orphans:
            path.unlink()
        return orphans

    def has_room(self, nbytes: int) -> None:
        """Raise `GateRefused` unless `nbytes` can be written and some room is left."""
        self.blobs.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.blobs).free
        if free < nbytes + SPARE_BYTES:
            raise GateRefused(
                f"a checkpoint needs {(nbytes + SPARE_BYTES) / 1e6:.0f} MB in {self.directory} and "
                f"{free / 1e6:.0f} MB are free; free some room or prune old checkpoints"
            )

    def _files(self) -> Iterator[Path]:
        """Every file that this store may have written."""
        for folder, patterns in (
            (self.directory, ("*.json", "*.tmp")),
            (self.blobs, ("*.safetensors", "*.tmp")),
        ):
            for pattern in patterns:
                yield from sorted(folder.glob(pattern))

    def _manifest_path(self, checkpoint_id: str) -> Path:
        if not _ID.fullmatch(checkpoint_id):
            raise UnknownId(f"{checkpoint_id!r} is no checkpoint id; `nightschool checkpoints list` shows all")
        return self.directory / f"{checkpoint_id}.json"

    def _blob_path(self, digest: str) -> Path:
        if not _ID.fullmatch(digest):
            raise IntegrityFault(f"a manifest in {self.directory} names {digest!r}, which is no digest")
        return self.blobs / f"{digest}.safetensors"

    def _problem(self, digest: str) -> str | None:
        """What is wrong with this blob, if anything."""
        try:
            self._load_blob(digest)
        except IntegrityFault as fault:
            return str(fault)
        return None

    def _load_blob(self, digest: str) -> dict[str, RawTensor]:
        path = self._blob_path(digest)
        try:
            whole, tensors = parse(path)
        except FileNotFoundError:
            raise IntegrityFault(_advice(path, "is missing")) from None
        except IntegrityFault:
            raise IntegrityFault(_advice(path, "does not match its digest")) from None
        if hashlib.sha256(whole).hexdigest() != digest:
            raise IntegrityFault(_advice(path, "does not match its digest"))
        return tensors

    def _write_blob(self, tensors: Mapping[str, RawTensor]) -> tuple[str, int]:
        """Write these tensors; returns their digest and the bytes of the file."""
        return self._place(pieces(tensors), self.blobs, lambda digest: f"{digest}.safetensors")

    def _place(self, parts: Iterable[bytes | memoryview], folder: Path, name: Callable[[str], str]) -> tuple[str, int]:
        """Write the parts under the name that their digest gives; returns the digest and the size.

        A file that is there already is replaced by an equal one: that also heals a damaged one.
        """
        temporary = folder / f"{secrets.token_hex(8)}.tmp"
        digest, nbytes = hashlib.sha256(), 0
        try:
            with temporary.open("xb") as stream:
                for part in parts:
                    digest.update(part)
                    nbytes += stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, folder / name(digest.hexdigest()))
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(folder)
        return digest.hexdigest(), nbytes


def canonical(manifest: Mapping[str, Any]) -> bytes:
    """The one spelling of a manifest: sorted keys, no spaces, no NaN."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _advice(path: Path, problem: str) -> str:
    return f"{path} {problem}; roll back to another checkpoint, or restore this file from a backup"


def sync_directory(folder: Path) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
