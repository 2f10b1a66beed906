"""Checkpoints on disk: everything that an update changes, under the digest of its content.

`<id>.json` is the manifest; its id is the SHA-256 of its bytes, and it names the tensors in `blobs/` by the digest of
what they are, however they are stored (`blobs.py`). Data is durable before the manifest that names it, and the
manifest before the ledger's pointer.

Invariant: a file under its final name is whole, and the same content always has the same id. Whatever is read is
hashed first. Knows no tensor library, no agent and no ledger: what the fields mean is the caller's.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.errors import GateRefused, IntegrityFault, UnknownId, WriteFailed
from store.checkpoints.blobs import DIGEST, Blobs, Stored, advice
from store.files import durable
from store.tensors.raw import Kinds, RawTensor

_BLOBS = ("weights", "optimizer")
"""Manifest keys that name blobs: only the store sets them."""
SPARE_BYTES = 64 * 1024 * 1024
"""Room that must be left after a write, so that the ledger can still say what happened."""


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
        self.blobs = Blobs(directory / "blobs")

    def write(
        self,
        weights: Mapping[str, RawTensor],
        optimizer: Mapping[str, RawTensor] | None,
        manifest_fields: Mapping[str, Any],
    ) -> CheckpointFiles:
        """Write a checkpoint; content that is there already is not written again, and of what fails nothing is left.

        With a `parent` among the fields its weights may be told as what differs from an earlier one's.
        `manifest_fields` must hold no time, uuid or path: the id is to be the same on a repeated night.
        """
        if forbidden := set(_BLOBS) & manifest_fields.keys():
            raise ValueError(f"manifest fields {sorted(forbidden)} are set by the store")
        before = set(self.blobs.files())
        try:
            return self._written(weights, optimizer, {"parent": None, **manifest_fields})
        except WriteFailed:
            with suppress(OSError):  # what stays all the same is swept at the next start
                durable.remove(set(self.blobs.files()) - before, "orphans")
            raise

    def _written(
        self,
        weights: Mapping[str, RawTensor],
        optimizer: Mapping[str, RawTensor] | None,
        manifest: Mapping[str, Any],
    ) -> CheckpointFiles:
        """Write the blobs, and then the manifest."""
        weights_sha256, nbytes = self.blobs.write(weights, near=self._near(manifest.get("parent")))
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

    def manifest(self, checkpoint_id: str) -> dict[str, Any]:
        """The manifest of this checkpoint, its digest checked."""
        path = self._manifest_path(checkpoint_id)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityFault(advice(path, "is missing")) from None
        if hashlib.sha256(text).hexdigest() != checkpoint_id:
            raise IntegrityFault(advice(path, "does not match its digest"))
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def load_weights(self, checkpoint_id: str) -> dict[str, RawTensor]:
        """The weights of this checkpoint, checked; private to the caller."""
        return self.blobs.load(self.manifest(checkpoint_id)["weights"])

    def load_optimizer(self, checkpoint_id: str) -> dict[str, RawTensor] | None:
        """The optimizer's state after this checkpoint, checked; None when it has none, or it was given up."""
        return (
            self.blobs.load(self.manifest(checkpoint_id)["optimizer"])
            if self.has_state(checkpoint_id)
            else None
        )

    def has_state(self, checkpoint_id: str) -> bool:
        """Whether this checkpoint has an optimizer's state that was not given up."""
        digest = self.manifest(checkpoint_id)["optimizer"]
        return digest is not None and not self.blobs.is_dropped(digest)

    def kinds(self, checkpoint_id: str) -> Kinds:
        """Type and shape of every tensor of the weights."""
        return self.blobs.kinds(self.manifest(checkpoint_id)["weights"])

    def put_weights(
        self,
        checkpoint_id: str,
        target: Mapping[str, RawTensor],
        begin: Callable[[], None],
        *,
        held_id: str = "",
    ) -> None:
        """Write the weights into the target's buffers, which are of the same names, types and shapes.

        `begin` is called when all was found to be right, before the first byte is written. held_id: the checkpoint
        that the target should hold now: where the two have one base, only what differs is written.
        """
        self.blobs.put(self.manifest(checkpoint_id)["weights"], target, begin, held=self._near(held_id))

    def stored(self, checkpoint_id: str) -> Stored:
        """How the weights of this checkpoint are stored."""
        return self.blobs.stored(self.manifest(checkpoint_id)["weights"])

    def verify(
        self, checkpoint_ids: Iterable[str], *, sample: Callable[[str], bool] = lambda _: True
    ) -> list[Fault]:
        """Read and hash these checkpoints; returns what is damaged or missing, [] when all is well.

        sample: says of a checkpoint whether more than its manifest is looked at.
        """
        seen: dict[str, str | None] = {}
        faults = []
        for checkpoint_id in checkpoint_ids:
            try:
                manifest = self.manifest(checkpoint_id)
            except IntegrityFault as fault:
                path = self._manifest_path(checkpoint_id)
                faults.append(Fault(checkpoint_id=checkpoint_id, path=path, problem=str(fault)))
                continue
            for digest in self._named(manifest) if sample(checkpoint_id) else ():
                if digest not in seen:
                    seen[digest] = None if self._given_up(manifest, digest) else self.blobs.problem(digest)
                if problem := seen[digest]:
                    path = self.blobs.path(digest)
                    faults.append(Fault(checkpoint_id=checkpoint_id, path=path, problem=problem))
        return faults

    def drop_states(self, checkpoint_ids: Iterable[str], *, but: Iterable[str]) -> None:
        """Give up the optimizer states of these checkpoints, but for those of `but`."""
        kept = {self.manifest(checkpoint_id)["optimizer"] for checkpoint_id in but}
        for digest in (
            {self.manifest(checkpoint_id)["optimizer"] for checkpoint_id in checkpoint_ids} - kept - {None}
        ):
            self.blobs.drop(digest)

    def sweep(self, keep_ids: Iterable[str]) -> list[Path]:
        """Remove what no kept checkpoint needs, and unfinished files; returns what was removed.

        Only while nobody writes. A damaged manifest that is to be kept raises, and nothing is removed: without it
        nobody knows which blobs it needs.
        """
        keep: set[Path] = set()
        for checkpoint_id in keep_ids:
            keep.add(self._manifest_path(checkpoint_id))
            keep |= self.blobs.needed(self._named(self.manifest(checkpoint_id)))
        orphans = [path for path in self._files() if path not in keep]
        durable.remove(orphans, "orphans")
        return orphans

    def has_room(self, nbytes: int) -> None:
        """Raise `GateRefused` unless `nbytes` can be written and some room is left."""
        durable.make_folder(self.blobs.folder)
        free = shutil.disk_usage(self.blobs.folder).free
        if free < nbytes + SPARE_BYTES:
            raise GateRefused(
                f"a checkpoint needs {(nbytes + SPARE_BYTES) / 1e6:.0f} MB in {self.directory} and "
                f"{free / 1e6:.0f} MB are free; free some room, or `nightschool checkpoints prune` old ones"
            )

    def _near(self, checkpoint_id: str | None) -> str | None:
        """Digest of this checkpoint's weights; None where there is no such checkpoint, or it is damaged."""
        try:
            return str(self.manifest(checkpoint_id)["weights"]) if checkpoint_id else None
        except (IntegrityFault, UnknownId):
            return None

    def _named(self, manifest: Mapping[str, Any]) -> list[str]:
        """Digests of the blobs that a manifest names."""
        return [manifest[key] for key in _BLOBS if manifest[key] is not None]

    def _given_up(self, manifest: Mapping[str, Any], digest: str) -> bool:
        return digest != manifest["weights"] and self.blobs.is_dropped(digest)

    def _files(self) -> Iterator[Path]:
        """Every file that this store may have written."""
        for pattern in ("*.json", "*.tmp"):
            yield from sorted(self.directory.glob(pattern))
        yield from self.blobs.files()

    def _manifest_path(self, checkpoint_id: str) -> Path:
        if not DIGEST.fullmatch(checkpoint_id):
            raise UnknownId(
                f"{checkpoint_id!r} is no checkpoint id; `nightschool checkpoints list` shows all"
            )
        return self.directory / f"{checkpoint_id}.json"


def canonical(manifest: Mapping[str, Any]) -> bytes:
    """The one spelling of a manifest: sorted keys, no spaces, no NaN."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
