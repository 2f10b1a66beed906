"""Deltas: what became of some tensors, told as the changes to an immutable base; undone as well as redone.

16-bit tensors are told by their changed elements (`elements.py`), all others whole: float32 changes everywhere.
Without a base everything is told whole: compressed, and read by itself. The form of the file is in `delta_file.py`.

Invariant: the bytes depend on the tensors, the base's digest and zstd's release alone, not on time, place or
threads. Nothing is written into a buffer before the whole file, and every chunk that it starts from, was found to
be right. Memory is a few chunks a thread. Knows no directory, no checkpoint and no tensor library but numpy.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
import xxhash

from corpus.errors import IntegrityFault
from store.checkpoints.delta.elements import Array, Coding, Packed, apply, pack, pack_whole
from store.checkpoints.delta.format import (
    CHUNK,
    UNREADABLE,
    Piece,
    Row,
    Tensors,
    by_elements,
    head,
    parse,
    pieces_of,
    table,
)
from store.checkpoints.delta.ordered_map import in_order
from store.tensors.raw import ITEM_BYTES, RawTensor, kinds_of

THREADS = 2
Prints = Mapping[str, Sequence[bytes]]
"""xxh3-128 of every chunk of every tensor."""
Begin = Callable[[], None]
_NO_PRINT = bytes(16)
"""Where there is no base."""
_Step = tuple[Piece, Row, memoryview]


class Stream(Protocol):
    """Where a delta goes."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of it; returns the number of bytes."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `encode` wrote."""

    sha256: str
    nbytes: int
    changed: int
    """Elements that differ from the base's; of a tensor told whole, all in the chunks that differ."""
    prints: Prints
    """Of the new tensors."""


def fingerprints(tensors: Tensors, *, threads: int = THREADS) -> Prints:
    """The hashes of all chunks: kept with a base, they spare an update the reading of what it left alone."""
    found: dict[str, list[bytes]] = {name: [] for name in tensors}
    pieces = pieces_of(kinds_of(tensors))
    for piece, digest in zip(
        pieces, in_order(lambda piece: _print(piece.of(tensors)), pieces, threads), strict=True
    ):
        found[piece.name].append(digest)
    return found


def encode(
    base: Tensors | None,
    new: Tensors,
    stream: Stream,
    *,
    base_sha256: str,
    new_sha256: str,
    base_prints: Prints | None = None,
    threads: int = THREADS,
) -> Written:
    """Write the delta that leads from `base` to `new`; neither may change meanwhile.

    base_sha256, new_sha256: digests by which both are told from others; "" for no base. base_prints: its
    `fingerprints`, if they were kept; IntegrityFault when the base is no longer what they say. ValueError unless both
    have the same names, types and shapes: then there is no delta.
    """
    kinds = kinds_of(new)
    if base is not None and kinds_of(base) != kinds:
        raise ValueError("a delta needs the base's tensors, of the same types and shapes; write a new base")
    pieces, digest, nbytes = pieces_of(kinds), hashlib.sha256(), 0
    prints: dict[str, list[bytes]] = {name: [] for name in new}
    rows: list[Row] = []

    def chunk(piece: Piece) -> tuple[Row, bytes | memoryview]:
        known = None if base_prints is None else base_prints[piece.name][piece.start // CHUNK]
        return _coded(piece, None if base is None else piece.of(base), piece.of(new), known)

    def put(part: bytes | memoryview) -> None:
        nonlocal nbytes
        digest.update(part)
        nbytes += stream.write(part)

    put(head(kinds, base_sha256, new_sha256))
    for piece, (row, payload) in zip(pieces, in_order(chunk, pieces, threads), strict=True):
        put(payload)
        rows.append(row)
        prints[piece.name].append(row.after)
    put(table(rows))
    changed = sum(row.changed for row in rows)
    return Written(sha256=digest.hexdigest(), nbytes=nbytes, changed=changed, prints=prints)


def _nothing() -> None:
    pass


class Delta:
    """One delta, hashed and read. `undo` and `redo` work in place, `write` in other buffers.

    `begin` is called when all was found to be right, before the first byte is written. In place, `piecewise` looks at
    each chunk when its turn comes, while it is at hand, which is sooner: then what a chunk that is wrong leaves behind
    is half written, and whoever asked for it has to write all of it anew.
    """

    def __init__(self, whole: bytes | memoryview, sha256: str, *, threads: int = THREADS) -> None:
        """Take the bytes of the file that `sha256` names; IntegrityFault if they are not those."""
        self.sha256, self._threads = sha256, threads
        if hashlib.sha256(whole).hexdigest() != sha256:
            raise IntegrityFault(self._damaged("does not match its digest"))
        try:
            parts = parse(memoryview(whole))
        except UNREADABLE as fault:
            raise IntegrityFault(self._damaged(f"cannot be read ({fault})")) from None
        self.base_sha256, self.new_sha256, self.kinds = parts.base_sha256, parts.new_sha256, parts.kinds
        self.changed = sum(row.changed for row in parts.rows)
        self._steps = list(zip(parts.pieces, parts.rows, parts.payloads, strict=True))

    def redo(self, tensors: Tensors, begin: Begin = _nothing, *, piecewise: bool = False) -> None:
        """Turn the base's tensors into the new ones, in place.

        IntegrityFault, and nothing is written, when they are not the base's. ValueError when they are read-only.
        """
        if not piecewise:
            self._check(tensors, backwards=False)
        self._write(tensors, tensors, None, begin, backwards=False, piecewise=piecewise)

    def undo(
        self,
        tensors: Tensors,
        base: Tensors | None = None,
        begin: Begin = _nothing,
        *,
        piecewise: bool = False,
    ) -> None:
        """Turn the new tensors into the base's, in place.

        base: the base's tensors; only those that are told whole are read. IntegrityFault, and nothing is written,
        when either are others. ValueError when they are read-only, or the base is needed and not given.
        """
        if base is None and any(row.coding == Coding.WHOLE for _, row, _ in self._steps):
            raise ValueError("some tensors are told whole: to undo them, the base's tensors are needed")
        if not piecewise:
            self._check(tensors, backwards=True)
        if base is not None:
            self._check(base, backwards=False, only=Coding.WHOLE)
        self._write(tensors, tensors, base, begin, backwards=True, piecewise=piecewise)

    def write(self, base: Tensors | None, target: Tensors, begin: Begin = _nothing) -> None:
        """Write the new tensors into the target's buffers, whatever those hold; IntegrityFault when `base` is another.

        base: None for a delta without one.
        """
        if base is not None:
            self._check(base, backwards=False)
        elif self.base_sha256:
            raise ValueError("this delta starts from a base, which is needed")
        self._write(base, target, None, begin, backwards=False)

    def decode(self, base: Tensors | None) -> dict[str, RawTensor]:
        """The new tensors, in buffers of their own; as `write`."""
        made = {name: _empty(*kind) for name, kind in self.kinds.items()}
        self.write(base, made)
        return made

    def parts(self, base: Tensors | None, names: Iterable[str]) -> Iterator[memoryview]:
        """The bytes of these new tensors one after the other, a chunk at a time; as `write`, and nothing is written."""
        if base is not None:
            self._check(base, backwards=False)
        place = {name: index for index, name in enumerate(names)}
        steps = [step for step in self._steps if step[0].name in place]

        def made(step: _Step) -> Array | None:
            chunk = step[0].empty() if base is None else step[0].of(base).copy()
            return chunk if _turned(step, chunk, backwards=False) else None

        for chunk in in_order(made, sorted(steps, key=lambda step: place[step[0].name]), self._threads):
            if chunk is None:
                raise IntegrityFault(self._damaged("does not give the weights that it was made from"))
            yield chunk.data.cast("B")

    def follows(self, other: "Delta") -> bool:
        """Whether both start from the same base, chunk by chunk."""
        mine, others = ([row.before for _, row, _ in delta._steps] for delta in (self, other))
        return self.base_sha256 == other.base_sha256 and self.kinds == other.kinds and mine == others

    def _check(self, tensors: Tensors, *, backwards: bool, only: Coding | None = None) -> None:
        """Hash every chunk that is to be read, all or only those of one coding."""
        if kinds_of(tensors) != self.kinds:
            raise IntegrityFault(self._stranger("have other names, types or shapes"))
        steps = [step for step in self._steps if only is None or step[1].coding == only]

        def fits(step: _Step) -> bool:
            piece, row, _ = step
            return _print(piece.of(tensors)) == (row.after if backwards else row.before)

        for (piece, _, _), fit in zip(steps, in_order(fits, steps, self._threads), strict=True):
            if not fit:
                raise IntegrityFault(self._stranger(f"differ in {piece.name}"))

    def _write(
        self,
        source: Tensors | None,
        target: Tensors,
        base: Tensors | None,
        begin: Begin,
        *,
        backwards: bool,
        piecewise: bool = False,
    ) -> None:
        """Bring the target, which may be the source, to the delta's other end; what came out is hashed too."""
        if piecewise and kinds_of(target) != self.kinds:
            raise IntegrityFault(self._stranger("have other names, types or shapes"))
        if any(memoryview(raw.data).readonly for raw in target.values()):
            raise ValueError("the tensors are to be changed in place and are read-only")
        begin()

        def write(step: _Step) -> bool:
            piece, row, _ = step
            chunk = piece.of(target)
            if piecewise and _print(chunk) != (row.after if backwards else row.before):
                return False
            if source is not None and source is not target:
                np.copyto(chunk, piece.of(source))
            if row.coding == Coding.WHOLE and backwards and base is not None:
                np.copyto(chunk, piece.of(base))
                return _print(chunk) == row.before
            return _turned(step, chunk, backwards=backwards)

        every = source is not target or piecewise
        changed = [step for step in self._steps if every or step[1].coding != Coding.SAME]
        if not all(in_order(write, changed, self._threads)):
            raise IntegrityFault(
                self._damaged("did not give the weights that it was made from: they are half written")
            )

    def _stranger(self, problem: str) -> str:
        return (
            f"the weights at hand are not those that delta {self.sha256} starts from: they {problem}. Nothing was "
            f"written; restore the weights from base {self.base_sha256} first"
        )

    def _damaged(self, problem: str) -> str:
        return f"delta {self.sha256} {problem}; roll back to another checkpoint, or restore this file from a backup"


def _coded(
    piece: Piece, before: Array | None, after: Array, known: bytes | None
) -> tuple[Row, bytes | memoryview]:
    """One chunk's row and payload. The base's is not read when its hash is known and the new one's."""
    new = _print(after)
    if before is None:
        packed = pack_whole(after)
        return Row(_NO_PRINT, new, len(packed.payload), packed.changed, packed.coding), packed.payload
    if known == new:
        return Row(new, new, 0, 0, Coding.SAME), b""
    old = _print(before)
    if known not in (None, old):
        raise IntegrityFault(f"the base is damaged in {piece.name}; restore its file from a backup")
    if old == new:
        return Row(old, new, 0, 0, Coding.SAME), b""
    packed = pack(before, after) if by_elements(piece.dtype) else pack_whole(after)
    return Row(old, new, len(packed.payload), packed.changed, packed.coding), packed.payload


def _turned(step: _Step, chunk: Array, *, backwards: bool) -> bool:
    """Bring a chunk to its other end, in place; whether it came out as it should."""
    _, row, payload = step
    if row.coding != Coding.SAME:
        try:
            apply(
                Packed(coding=Coding(row.coding), changed=row.changed, payload=payload),
                chunk,
                backwards=backwards,
            )
        except (ValueError, IndexError):
            return False
    return _print(chunk) == (row.before if backwards else row.after)


def _empty(dtype: str, shape: tuple[int, ...]) -> RawTensor:
    data = memoryview(bytearray(ITEM_BYTES[dtype] * prod(shape)))
    return RawTensor(dtype=dtype, shape=shape, data=data)


def _print(chunk: Array) -> bytes:
    return xxhash.xxh3_128_digest(chunk.data)
