"""Blobs: the tensors of checkpoints, each under the SHA-256 of its safetensors form, however it is stored.

    <sha256>.safetensors    whole, as any reader of safetensors loads it; what deltas start from
    <sha256>.delta          the changed elements against a whole one (`deltas.py`), and the SHA-256 of the file
    <sha256>.packed         every tensor compressed, in the same form without a base: for types that change everywhere
    <sha256>.dropped        empty: it was here, and was given up on purpose

Invariant: the name says what is inside, never how: the same tensors have the same name in every form. A file under
its final name is whole, and nothing is handed out that was not hashed. Knows no checkpoint and no tensor library.
"""

import hashlib
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from corpus.errors import IntegrityFault
from store.checkpoints.delta.encode import Begin, Delta, Prints, encode, fingerprints
from store.checkpoints.delta.format import by_elements
from store.files import durable
from store.tensors.raw import Kinds, RawTensor, head, in_order, kinds_of, parse, pieces, size

Tensors = Mapping[str, RawTensor]
Form = Literal["whole", "delta", "packed"]
SUFFIXES: dict[Form, str] = {"whole": ".safetensors", "delta": ".delta", "packed": ".packed"}
DROPPED = ".dropped"
LARGEST_DELTA = 0.5
"""Of the whole: a delta beyond it becomes a new base, for the deltas after it would only be larger."""
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How one blob is stored."""

    form: Form
    nbytes: int
    """On disk, without its base."""
    base: str | None
    """Digest of the blob that a delta starts from."""


class Blobs:
    """The blobs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prints: dict[str, Prints] = {}
        """Hashes of the bases that this process has found whole."""

    def write(
        self, tensors: Tensors, *, near: str | None = None, whole: bool = False, what: str = "weights"
    ) -> tuple[str, int]:
        """Store these tensors, which must not change meanwhile; returns their digest and the bytes on disk.

        near: digest of a blob that they grew from, whose base they may share. whole: as they are, whatever it takes.
        What is there already is left alone if it is whole, and replaced if it is damaged. what: they are, for messages.
        """
        digest = _digest(pieces(tensors))
        found = self._find(digest)
        if found is None or self.problem(digest):
            durable.make_folder(self.folder)
            # A damaged whole one may be what deltas start from: it is mended as what it was.
            if whole or not tensors or (found is not None and found[0] == "whole"):
                self._write_whole(tensors, digest, what)
            elif not any(by_elements(raw.dtype) for raw in tensors.values()):
                self._write_delta(tensors, digest, None, what)
            elif not self._write_near(tensors, digest, near, what):
                self._write_whole(tensors, digest, what)
        else:  # whoever wrote it may have died before its name was to last
            durable.sync_directory(self.folder)
        return digest, self._path(digest)[1].stat().st_size

    def stored(self, digest: str) -> Stored:
        """How a blob is stored; nothing but a delta's header is read."""
        form, path = self._path(digest)
        base = self._delta(path, digest).base_sha256 if form == "delta" else None
        return Stored(form=form, nbytes=path.stat().st_size, base=base)

    def load(self, digest: str) -> dict[str, RawTensor]:
        """The tensors, checked: mapped where they are stored whole, else in buffers of their own."""
        form, path = self._path(digest)
        if form == "whole":
            return self._whole(path, digest)
        delta = self._delta(path, digest)
        return delta.decode(self._base_of(delta))

    def put(self, digest: str, target: Tensors, begin: Begin, *, held: str | None = None) -> None:
        """Write the tensors into the target's buffers; the memory of a few chunks beside it.

        target: writable, of the same names, types and shapes (`kinds`). begin: called when all was found to be right,
        before the first byte is written; perhaps twice. held: what the target should hold now; if it does, and both
        have one base, only what differs is written.
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

    def kinds(self, digest: str) -> Kinds:
        """Type and shape of every tensor."""
        form, path = self._path(digest)
        return kinds_of(_parsed(path)[1]) if form == "whole" else self._delta(path, digest).kinds

    def problem(self, digest: str) -> str | None:
        """What is wrong with this blob, if anything: everything is decoded and hashed, a chunk at a time."""
        try:
            form, path = self._path(digest)
            if form == "whole":
                self._whole(path, digest)
                return None
            delta = self._delta(path, digest)
            parts = delta.parts(self._base_of(delta), in_order(delta.kinds))
            if _digest(chain([head(delta.kinds)], parts)) != digest:
                raise IntegrityFault(advice(path, "does not give the weights that it is named after"))
        except IntegrityFault as fault:
            return str(fault)
        return None

    def drop(self, digest: str) -> None:
        """Give a blob up, and remember that it was on purpose."""
        if self._find(digest) is not None:
            with durable.new_file(self.folder, "mark") as file:
                file.keep(f"{digest}{DROPPED}")
            durable.remove(self._places(digest), "states")

    def is_dropped(self, digest: str) -> bool:
        """Whether it was given up on purpose."""
        return self._find(digest) is None and (self.folder / f"{digest}{DROPPED}").exists()

    def needed(self, digests: Iterable[str]) -> set[Path]:
        """The files of these blobs and of what they start from; where a damaged one hides that, of all it may be."""
        found: set[Path] = set()
        for digest in digests:
            if self._find(digest) is None:
                found.add(self.folder / f"{digest}{DROPPED}")
                continue
            found.add(self._path(digest)[1])
            try:
                base = self.stored(digest).base
                found |= {self.folder / f"{base}{SUFFIXES['whole']}"} if base else set()
            except IntegrityFault:
                found |= set(self.folder.glob(f"*{SUFFIXES['whole']}"))
        return found

    def files(self) -> Iterator[Path]:
        """Every file that may have been written here."""
        for suffix in (*SUFFIXES.values(), DROPPED, ".tmp"):
            yield from sorted(self.folder.glob(f"*{suffix}"))

    def path(self, digest: str) -> Path:
        """Its file; where there is none, that of its whole form."""
        found = self._find(digest)
        return found[1] if found else self._places(digest)[0]

    def _put_from(self, held: str, digest: str, target: Tensors, begin: Begin) -> bool:
        """Undo what the target holds, and redo what it is to hold; False, with nothing lost, where that cannot be."""
        try:
            (form, path), (form_held, path_held) = self._path(digest), self._path(held)
            before = self._delta(path_held, held) if form_held == "delta" else None
            after = self._delta(path, digest) if form == "delta" else None
            bases = [
                delta.base_sha256 if delta else name for delta, name in ((before, held), (after, digest))
            ]
            related = bases[0] == bases[1] and not (before and after and not after.follows(before))
            if not related or not (before or after) or "packed" in (form, form_held):
                return False
            if before:
                before.undo(target, self._base_of(before), begin, piecewise=True)
            if after:
                after.redo(target, begin, piecewise=True)
        except (
            IntegrityFault
        ):  # of what is held, which says nothing of what is wanted: all of it is written from the files
            return False
        return True

    def _write_near(self, tensors: Tensors, digest: str, near: str | None, what: str) -> bool:
        """Write a delta against the base of this blob; False where there is none, or none that is whole."""
        if near is None or self._find(near) is None:
            return False
        try:
            stored = self.stored(near)
            base = near if stored.form == "whole" else stored.base
            if base is None or base == digest or self.kinds(base) != kinds_of(tensors):
                return False
            return self._write_delta(tensors, digest, base, what)
        except IntegrityFault:  # what is there is damaged: nothing new may depend on it
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
        """Write them against this base, or packed without one; False when that is not worth it."""
        old, prints = (None, None) if base is None else self._checked_base(base)
        with durable.new_file(self.folder, what) as file:
            made = encode(old, tensors, file, base_sha256=base or "", new_sha256=digest, base_prints=prints)
            if base is not None and made.nbytes > LARGEST_DELTA * size(kinds_of(tensors)):
                return False
            file.write(bytes.fromhex(made.sha256))
            self._keep(file, digest, "packed" if base is None else "delta")
        return True

    def _keep(self, file: durable.NewFile, digest: str, form: Form) -> None:
        """Durable in this form, and then in no other."""
        kept = file.keep(f"{digest}{SUFFIXES[form]}")
        others = [*self._places(digest), self.folder / f"{digest}{DROPPED}"]
        if stale := [path for path in others if path != kept and path.exists()]:
            durable.remove(stale, "stale")

    def _checked_base(self, digest: str) -> tuple[Tensors, Prints]:
        """A base and the hashes of its chunks: it is hashed whole once in the life of this process."""
        path = self._path(digest)[1]
        if digest not in self._prints:
            self._prints[digest] = fingerprints(self._whole(path, digest))
        return _parsed(path)[1], self._prints[digest]

    def _base_of(self, delta: Delta) -> Tensors | None:
        """What a delta starts from: not hashed here, for the delta holds every chunk against its own hash."""
        if not delta.base_sha256:
            return None
        return _parsed(self.folder / f"{_known(delta.base_sha256)}{SUFFIXES['whole']}")[1]

    def _delta(self, path: Path, digest: str) -> Delta:
        with path.open("rb") as stream:
            whole = memoryview(
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
            )
        try:
            delta = Delta(whole[:-32], bytes(whole[-32:]).hex())
        except IntegrityFault:
            raise IntegrityFault(advice(path, "does not match its digest")) from None
        if delta.new_sha256 != digest or bool(delta.base_sha256) != (path.suffix == SUFFIXES["delta"]):
            raise IntegrityFault(advice(path, "is another blob's under this name"))
        return delta

    def _whole(self, path: Path, digest: str) -> dict[str, RawTensor]:
        whole, tensors = _parsed(path)
        if hashlib.sha256(whole).hexdigest() != digest:
            raise IntegrityFault(advice(path, "does not match its digest"))
        return tensors

    def _find(self, digest: str) -> tuple[Form, Path] | None:
        """The form and the file of a blob, if it is there."""
        places = zip(SUFFIXES, self._places(digest), strict=True)
        return next(((form, path) for form, path in places if path.exists()), None)

    def _path(self, digest: str) -> tuple[Form, Path]:
        found = self._find(digest)
        if found is None:
            raise IntegrityFault(advice(self._places(digest)[0], "is missing"))
        return found

    def _places(self, digest: str) -> list[Path]:
        return [self.folder / f"{_known(digest)}{suffix}" for suffix in SUFFIXES.values()]


def advice(path: Path, problem: str) -> str:
    """What is wrong with a file, and what to do."""
    return f"{path} {problem}; roll back to another checkpoint, or restore this file from a backup"


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _known(digest: str) -> str:
    """A digest that may become part of a path."""
    if not DIGEST.fullmatch(digest):
        raise IntegrityFault(
            f"a checkpoint's file names {digest!r}, which is no digest; restore it from a backup"
        )
    return digest


def _parsed(path: Path) -> tuple[memoryview, dict[str, RawTensor]]:
    try:
        return parse(path)
    except FileNotFoundError:
        raise IntegrityFault(advice(path, "is missing")) from None
    except IntegrityFault:
        raise IntegrityFault(advice(path, "does not match its digest")) from None
