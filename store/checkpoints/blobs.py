"""Blobs: the tensors of checkpoints, in files of four forms.

A blob is a set of tensors, such as the weights of a checkpoint. Its digest is the SHA-256 of these tensors as
a safetensors file, whatever form is stored.

    <sha256>.safetensors    whole, as any reader of safetensors loads it; a delta starts from such a blob
    <sha256>.delta          the elements that differ from a whole blob, its base (see `delta/`), and the
                            SHA-256 of the delta
    <sha256>.packed         every tensor compressed, without a base: for types that change everywhere
    <sha256>.dropped        an empty file, the tombstone of a blob that was dropped on purpose

Invariant: the same tensors have the same digest in every form. A file under its final name is whole, and only
verified tensors are returned. This module knows nothing about checkpoints or tensor libraries.
"""

import hashlib
import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from corpus.errors import IntegrityFault
from store.checkpoints.delta.encode import Begin, ChunkHashes, Delta, chunk_hashes, encode
from store.checkpoints.delta.format import by_elements
from store.files import durable
from store.tensors.raw import (
    RawTensor,
    Tensors,
    TensorSpecs,
    file_order,
    head,
    parse,
    pieces,
    size,
    specs_of,
)

Form = Literal["whole", "delta", "packed"]
SUFFIXES: dict[Form, str] = {"whole": ".safetensors", "delta": ".delta", "packed": ".packed"}
TOMBSTONE = ".dropped"
LARGEST_DELTA = 0.5
"""Largest size of a delta, as a share of the whole blob; instead of a larger delta a whole blob is stored."""
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class StoredBlob:
    """How one blob is stored."""

    form: Form
    nbytes: int
    """Bytes on disk, without those of the base."""
    base: str | None
    """Digest of the blob that a delta starts from; None for the other forms."""


class Blobs:
    """The blobs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes: dict[str, ChunkHashes] = {}
        """Hashes of the bases that this process has verified, by digest."""

    def write(
        self, tensors: Tensors, *, near: str | None = None, whole: bool = False, what: str = "weights"
    ) -> tuple[str, int]:
        """Store these tensors as a blob; return its digest and its bytes on disk.

        A blob that is stored already is left alone if it is undamaged, and replaced if it is damaged.

        Args:
            tensors: The tensors, which must not change during the call.
            near: Digest of a similar blob; the new blob may be a delta of it, or of its base. None to write
                no delta.
            whole: Whether to store the tensors whole, whatever the size.
            what: A name for the tensors in messages and in `failpoints`.
        """
        digest = _digest(pieces(tensors))
        stored = self._find(digest)
        if stored is None or self.problem(digest):
            durable.make_folder(self.folder)
            # Deltas may start from a whole blob that is damaged, so it is written whole again.
            if whole or not tensors or (stored is not None and stored[0] == "whole"):
                self._write_whole(tensors, digest, what)
            elif not any(by_elements(raw.dtype) for raw in tensors.values()):
                self._write_delta(tensors, digest, None, what)
            elif not self._write_near(tensors, digest, near, what):
                self._write_whole(tensors, digest, what)
        else:  # its writer may have died before the name was durable
            durable.sync_directory(self.folder)
        return digest, self._path(digest)[1].stat().st_size

    def stored(self, digest: str) -> StoredBlob:
        """Return how a blob is stored; its tensors are not decoded."""
        form, path = self._path(digest)
        base = self._delta(path, digest).base_sha256 if form == "delta" else None
        return StoredBlob(form=form, nbytes=path.stat().st_size, base=base)

    def load(self, digest: str) -> dict[str, RawTensor]:
        """Return the verified tensors of a blob, by name.

        The tensors of a whole blob are views into the mapped file, others have buffers of their own.
        """
        form, path = self._path(digest)
        if form == "whole":
            return self._whole(path, digest)
        delta = self._delta(path, digest)
        return delta.decode(self._base_of(delta))

    def put(self, digest: str, target: Tensors, begin: Begin, *, held: str | None = None) -> None:
        """Write the tensors of a blob into the target's buffers, with memory for a few chunks only.

        Args:
            digest: The blob.
            target: Buffers that can be written to, of the same names, types and shapes (`specs`).
            begin: Called before the first byte is written, once everything is verified; it may be called
                twice.
            held: The blob that the target should hold now. If the target does hold it, and both blobs have
                the same base, only the differences are written.
        """
        if held is not None and self._find(held) is not None and self._put_from(held, digest, target, begin):
            return
        form, path = self._path(digest)
        if form == "whole":
            tensors = self._whole(path, digest)
            begin()
            for name, raw in tensors.items():
                memoryview(target[name].data).cast("B")[:] = raw.data
        else:
            delta = self._delta(path, digest)
            delta.write(self._base_of(delta), target, begin)

    def specs(self, digest: str) -> TensorSpecs:
        """Return the type and shape of every tensor of a blob, by name."""
        form, path = self._path(digest)
        return specs_of(_parsed(path)[1]) if form == "whole" else self._delta(path, digest).specs

    def problem(self, digest: str) -> str | None:
        """Return what is wrong with a blob; None if it is undamaged.

        The whole blob is decoded and hashed, a chunk at a time.
        """
        try:
            form, path = self._path(digest)
            if form == "whole":
                self._whole(path, digest)
                return None
            delta = self._delta(path, digest)
            data = delta.stream(self._base_of(delta), file_order(delta.specs))
            if _digest(chain([head(delta.specs)], data)) != digest:
                raise IntegrityFault(damage(path, "does not give the weights that it is named after"))
        except IntegrityFault as fault:
            return str(fault)
        return None

    def drop(self, digest: str) -> None:
        """Remove a blob, and leave a tombstone that says that it was dropped on purpose."""
        if self._find(digest) is not None:
            with durable.new_file(self.folder, "mark") as file:
                file.keep(f"{digest}{TOMBSTONE}")
            durable.remove(self._places(digest), "states")

    def is_dropped(self, digest: str) -> bool:
        """Return whether a blob was dropped on purpose."""
        return self._find(digest) is None and (self.folder / f"{digest}{TOMBSTONE}").exists()

    def needed(self, digests: Iterable[str]) -> set[Path]:
        """Return the files of these blobs and of their bases.

        If a delta is damaged, its base is unknown, and every whole blob counts as needed. For a blob that is
        not stored, the set has the path of its tombstone.
        """
        files: set[Path] = set()
        for digest in digests:
            if self._find(digest) is None:
                files.add(self.folder / f"{digest}{TOMBSTONE}")
                continue
            files.add(self._path(digest)[1])
            try:
                base = self.stored(digest).base
                files |= {self.folder / f"{base}{SUFFIXES['whole']}"} if base else set()
            except IntegrityFault:
                files |= set(self.folder.glob(f"*{SUFFIXES['whole']}"))
        return files

    def files(self) -> Iterator[Path]:
        """Yield every file in the folder that this class may have written, unfinished ones included."""
        for suffix in (*SUFFIXES.values(), TOMBSTONE, ".tmp"):
            yield from sorted(self.folder.glob(f"*{suffix}"))

    def path(self, digest: str) -> Path:
        """Return a blob's file; if it has none, the path of its whole form."""
        stored = self._find(digest)
        return stored[1] if stored else self._places(digest)[0]

    def _put_from(self, held: str, digest: str, target: Tensors, begin: Begin) -> bool:
        """Undo the delta of `held` in the target and redo that of `digest`; return whether that succeeded.

        After False the caller has to write all of the target.
        """
        try:
            (form, path), (form_held, path_held) = self._path(digest), self._path(held)
            before = self._delta(path_held, held) if form_held == "delta" else None
            after = self._delta(path, digest) if form == "delta" else None
            bases = [
                delta.base_sha256 if delta else name for delta, name in ((before, held), (after, digest))
            ]
            related = bases[0] == bases[1] and not (before and after and not after.shares_base_with(before))
            if not related or not (before or after) or "packed" in (form, form_held):
                return False
            if before:
                before.undo(target, self._base_of(before), begin, piecewise=True)
            if after:
                after.redo(target, begin, piecewise=True)
        except IntegrityFault:  # the target may hold anything; the caller writes all of it from the files
            return False
        return True

    def _write_near(self, tensors: Tensors, digest: str, near: str | None, what: str) -> bool:
        """Write a delta against the base of `near`; return whether one was written.

        None is written without an undamaged base of the same shapes, or if the delta would be too large.
        """
        if near is None or self._find(near) is None:
            return False
        try:
            stored = self.stored(near)
            base = near if stored.form == "whole" else stored.base
            if base is None or base == digest or self.specs(base) != specs_of(tensors):
                return False
            return self._write_delta(tensors, digest, base, what)
        except IntegrityFault:  # nothing new may depend on a damaged base
            return False

    def _write_whole(self, tensors: Tensors, digest: str, what: str) -> None:
        with durable.new_file(self.folder, what) as file:
            for part in pieces(tensors):
                file.write(part)
            if file.sha256 != digest:
                raise IntegrityFault(
                    "the weights changed while they were written; nothing was kept: try again"
                )
            self._keep(file, digest, "whole")

    def _write_delta(self, tensors: Tensors, digest: str, base: str | None, what: str) -> bool:
        """Write the tensors as a delta of `base`, or packed if it is None; return whether they were written.

        A delta that would be too large is not written.
        """
        old, hashes = (None, None) if base is None else self._checked_base(base)
        with durable.new_file(self.folder, what) as file:
            written = encode(
                old, tensors, file, base_sha256=base or "", new_sha256=digest, base_hashes=hashes
            )
            if base is not None and written.nbytes > LARGEST_DELTA * size(specs_of(tensors)):
                return False
            file.write(bytes.fromhex(written.sha256))
            self._keep(file, digest, "packed" if base is None else "delta")
        return True

    def _keep(self, file: durable.NewFile, digest: str, form: Form) -> None:
        """Make a written file durable as the blob in this form, and remove the blob's other forms."""
        kept = file.keep(f"{digest}{SUFFIXES[form]}")
        others = [*self._places(digest), self.folder / f"{digest}{TOMBSTONE}"]
        if stale := [path for path in others if path != kept and path.exists()]:
            durable.remove(stale, "stale")

    def _checked_base(self, digest: str) -> tuple[Tensors, ChunkHashes]:
        """Return the tensors of a base and the hashes of their chunks; each process verifies a base once."""
        path = self._path(digest)[1]
        if digest not in self._hashes:
            self._hashes[digest] = chunk_hashes(self._whole(path, digest))
        return _parsed(path)[1], self._hashes[digest]

    def _base_of(self, delta: Delta) -> Tensors | None:
        """Return the tensors of a delta's base, None without a base.

        They are not verified here: the delta checks every chunk that it reads against the chunk's hash.
        """
        if not delta.base_sha256:
            return None
        return _parsed(self.folder / f"{_valid(delta.base_sha256)}{SUFFIXES['whole']}")[1]

    def _delta(self, path: Path, digest: str) -> Delta:
        with path.open("rb") as stream:
            whole = memoryview(
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
            )
        try:
            delta = Delta(whole[:-32], bytes(whole[-32:]).hex())
        except IntegrityFault:
            raise IntegrityFault(damage(path, "does not match its digest")) from None
        if delta.new_sha256 != digest or bool(delta.base_sha256) != (path.suffix == SUFFIXES["delta"]):
            raise IntegrityFault(damage(path, "is another blob's under this name"))
        return delta

    def _whole(self, path: Path, digest: str) -> dict[str, RawTensor]:
        whole, tensors = _parsed(path)
        if hashlib.sha256(whole).hexdigest() != digest:
            raise IntegrityFault(damage(path, "does not match its digest"))
        return tensors

    def _find(self, digest: str) -> tuple[Form, Path] | None:
        """Return the form and the file of a blob; None if it is not stored."""
        places = zip(SUFFIXES, self._places(digest), strict=True)
        return next(((form, path) for form, path in places if path.exists()), None)

    def _path(self, digest: str) -> tuple[Form, Path]:
        stored = self._find(digest)
        if stored is None:
            raise IntegrityFault(damage(self._places(digest)[0], "is missing"))
        return stored

    def _places(self, digest: str) -> list[Path]:
        return [self.folder / f"{_valid(digest)}{suffix}" for suffix in SUFFIXES.values()]


def damage(path: Path, problem: str) -> str:
    """Return the message for a damaged file, with the problem and the cure.

    Args:
        path: The file.
        problem: The end of a sentence that begins with the path, such as "is missing".
    """
    return f"{path} {problem}; roll back to another checkpoint, or restore this file from a backup"


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _valid(digest: str) -> str:
    """Return the text if it is a digest and so may be part of a path; else raise IntegrityFault."""
    if not DIGEST.fullmatch(digest):
        raise IntegrityFault(
            f"a checkpoint's file names {digest!r}, which is not a digest; restore it from a backup"
        )
    return digest


def _parsed(path: Path) -> tuple[memoryview, dict[str, RawTensor]]:
    try:
        return parse(path)
    except FileNotFoundError:
        raise IntegrityFault(damage(path, "is missing")) from None
    except IntegrityFault:
        raise IntegrityFault(damage(path, "does not match its digest")) from None
