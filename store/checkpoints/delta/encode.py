"""Deltas: tensors as changes to an immutable base, which can be undone and redone in place.

16-bit tensors are stored by their changed elements (`elements.py`), all others in full, because float32
changes everywhere. Without a base every tensor is stored in full: compressed, and readable by itself.
`format.py` has the form of the file.

Invariant: the bytes depend on the tensors, the base's digest and the release of zstd alone, not on time,
place or threads. Nothing is written into a buffer before the whole file and every chunk that it starts from
are verified. Memory is a few chunks a thread. This module knows nothing about directories or checkpoints, and
uses no tensor library but NumPy.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Protocol, TypeVar

import numpy as np
import xxhash

from corpus.errors import IntegrityFault
from store.checkpoints.delta.elements import Coding, Packed, apply, pack, pack_whole
from store.checkpoints.delta.format import (
    CHUNK,
    UNREADABLE,
    ChunkRow,
    CodedChunk,
    Piece,
    by_elements,
    head,
    parse,
    pieces_of,
    table,
)
from store.tensors.numbers import Array
from store.tensors.raw import ITEM_BYTES, RawTensor, Tensors, specs_of

THREADS = 2
ChunkHashes = Mapping[str, Sequence[bytes]]
"""xxh3-128 of every chunk of every tensor, by the tensor's name."""
Begin = Callable[[], None]
"""Called once everything is verified, before the first byte is written."""
_NO_HASH = bytes(16)
"""The hash of a base's chunk, if there is no base."""
_AHEAD = 2
"""Results a thread that may be computed and not yet taken."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Stream(Protocol):
    """A sink for the bytes of a delta."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of the data and return its bytes."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """The result of `encode`."""

    sha256: str
    nbytes: int
    changed: int
    """Elements that differ from the base's; for a tensor in full, all elements of the chunks that differ."""
    hashes: ChunkHashes
    """Hashes of the new tensors."""


def chunk_hashes(tensors: Tensors, *, threads: int = THREADS) -> ChunkHashes:
    """Hash all chunks; hashes that are kept with a base save a later read of its unchanged chunks."""
    hashes: dict[str, list[bytes]] = {name: [] for name in tensors}
    pieces = pieces_of(specs_of(tensors))
    digests = _ordered_map(lambda piece: _hash(piece.of(tensors)), pieces, threads)
    for piece, digest in zip(pieces, digests, strict=True):
        hashes[piece.name].append(digest)
    return hashes


def encode(
    base: Tensors | None,
    new: Tensors,
    stream: Stream,
    *,
    base_sha256: str,
    new_sha256: str,
    base_hashes: ChunkHashes | None = None,
    threads: int = THREADS,
) -> Written:
    """Write the delta that leads from `base` to `new`; neither may change during the call.

    Args:
        base: The tensors to start from; None to store `new` in full.
        new: Tensors of the same names, types and shapes.
        stream: The sink of the bytes.
        base_sha256: Digest that identifies the base; "" for none.
        new_sha256: Digest that identifies the new tensors.
        base_hashes: The base's `chunk_hashes`, if they were kept.
        threads: Number of threads.

    Raises:
        ValueError: The base has other names, types or shapes.
        IntegrityFault: The base no longer has the hashes that were kept.
    """
    specs = specs_of(new)
    if base is not None and specs_of(base) != specs:
        raise ValueError("a delta needs the base's tensors, of the same types and shapes; write a new base")
    pieces, digest, nbytes = pieces_of(specs), hashlib.sha256(), 0
    hashes: dict[str, list[bytes]] = {name: [] for name in new}
    rows: list[ChunkRow] = []

    def coded(piece: Piece) -> tuple[ChunkRow, bytes | memoryview]:
        known = None if base_hashes is None else base_hashes[piece.name][piece.start // CHUNK]
        return _coded(piece, None if base is None else piece.of(base), piece.of(new), known)

    def put(part: bytes | memoryview) -> None:
        nonlocal nbytes
        digest.update(part)
        nbytes += stream.write(part)

    put(head(specs, base_sha256, new_sha256))
    for piece, (row, payload) in zip(pieces, _ordered_map(coded, pieces, threads), strict=True):
        put(payload)
        rows.append(row)
        hashes[piece.name].append(row.after)
    put(table(rows))
    changed = sum(row.changed for row in rows)
    return Written(sha256=digest.hexdigest(), nbytes=nbytes, changed=changed, hashes=hashes)


def _nothing() -> None:
    pass


class Delta:
    """One delta, verified and parsed. `undo` and `redo` work in place, `write` in other buffers.

    `begin` is called once everything is verified, before the first byte is written. In place, with
    `piecewise`, each chunk is verified just before it is written, while it is in the cache, which is
    faster. A wrong chunk then leaves half-written tensors behind, and the caller must write all of them
    again.
    """

    def __init__(self, whole: bytes | memoryview, sha256: str, *, threads: int = THREADS) -> None:
        """Parse the bytes of the file that `sha256` names; raise IntegrityFault if they are not those."""
        self.sha256, self._threads = sha256, threads
        if hashlib.sha256(whole).hexdigest() != sha256:
            raise IntegrityFault(self._damaged("does not match its digest"))
        try:
            parsed = parse(memoryview(whole))
        except UNREADABLE as fault:
            raise IntegrityFault(self._damaged(f"cannot be read ({fault})")) from None
        self.base_sha256, self.new_sha256, self.specs = parsed.base_sha256, parsed.new_sha256, parsed.specs
        self.changed = sum(chunk.row.changed for chunk in parsed.chunks)
        self._chunks = parsed.chunks

    def redo(self, tensors: Tensors, begin: Begin = _nothing, *, piecewise: bool = False) -> None:
        """Turn the base's tensors into the new ones, in place.

        Raises:
            IntegrityFault: They are not the base's tensors; nothing was written.
            ValueError: They are read-only.
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

        Args:
            tensors: The new tensors.
            base: The base's tensors, of which only those that are stored in full are read.
            begin: As in the class.
            piecewise: As in the class.

        Raises:
            IntegrityFault: Either are other tensors; nothing was written.
            ValueError: The tensors are read-only, or the base is needed and not given.
        """
        if base is None and any(chunk.row.coding == Coding.WHOLE for chunk in self._chunks):
            raise ValueError("some tensors are stored in full: to undo them, the base's tensors are needed")
        if not piecewise:
            self._check(tensors, backwards=True)
        if base is not None:
            self._check(base, backwards=False, only=Coding.WHOLE)
        self._write(tensors, tensors, base, begin, backwards=True, piecewise=piecewise)

    def write(self, base: Tensors | None, target: Tensors, begin: Begin = _nothing) -> None:
        """Write the new tensors into the target's buffers, whatever those hold.

        Args:
            base: The base's tensors; None for a delta without a base.
            target: The buffers, of the same names, types and shapes.
            begin: As in the class.

        Raises:
            IntegrityFault: `base` is another base.
        """
        if base is not None:
            self._check(base, backwards=False)
        elif self.base_sha256:
            raise ValueError("this delta starts from a base, which is needed")
        self._write(base, target, None, begin, backwards=False)

    def decode(self, base: Tensors | None) -> dict[str, RawTensor]:
        """Return the new tensors, in buffers of their own; see `write`."""
        decoded = {name: _empty(*spec) for name, spec in self.specs.items()}
        self.write(base, decoded)
        return decoded

    def stream(self, base: Tensors | None, names: Iterable[str]) -> Iterator[memoryview]:
        """Yield the bytes of these new tensors one after the other, a chunk at a time; see `write`."""
        if base is not None:
            self._check(base, backwards=False)
        place = {name: index for index, name in enumerate(names)}
        chunks = [chunk for chunk in self._chunks if chunk.piece.name in place]

        def decoded(chunk: CodedChunk) -> Array | None:
            array = chunk.piece.empty() if base is None else chunk.piece.of(base).copy()
            return array if _apply(chunk, array, backwards=False) else None

        ordered = sorted(chunks, key=lambda chunk: place[chunk.piece.name])
        for array in _ordered_map(decoded, ordered, self._threads):
            if array is None:
                raise IntegrityFault(self._damaged("does not give the weights that it was made from"))
            yield array.data.cast("B")

    def shares_base_with(self, other: "Delta") -> bool:
        """Return whether both deltas start from the same base, chunk by chunk."""
        own, others = ([chunk.row.before for chunk in delta._chunks] for delta in (self, other))
        return self.base_sha256 == other.base_sha256 and self.specs == other.specs and own == others

    def _check(self, tensors: Tensors, *, backwards: bool, only: Coding | None = None) -> None:
        """Hash every chunk that will be read, all or only those of one coding."""
        if specs_of(tensors) != self.specs:
            raise IntegrityFault(self._mismatch("have other names, types or shapes"))
        chunks = [chunk for chunk in self._chunks if only is None or chunk.row.coding == only]

        def fits(chunk: CodedChunk) -> bool:
            return _hash(chunk.piece.of(tensors)) == (chunk.row.after if backwards else chunk.row.before)

        for chunk, fit in zip(chunks, _ordered_map(fits, chunks, self._threads), strict=True):
            if not fit:
                raise IntegrityFault(self._mismatch(f"differ in {chunk.piece.name}"))

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
        """Bring the target, which may be the source, to the delta's other end, and verify the result."""
        if piecewise and specs_of(target) != self.specs:
            raise IntegrityFault(self._mismatch("have other names, types or shapes"))
        if any(memoryview(raw.data).readonly for raw in target.values()):
            raise ValueError("the tensors are to be changed in place and are read-only")
        begin()

        def write(chunk: CodedChunk) -> bool:
            piece, row, _ = chunk
            array = piece.of(target)
            if piecewise and _hash(array) != (row.after if backwards else row.before):
                return False
            if source is not None and source is not target:
                np.copyto(array, piece.of(source))
            if row.coding == Coding.WHOLE and backwards and base is not None:
                np.copyto(array, piece.of(base))
                return _hash(array) == row.before
            return _apply(chunk, array, backwards=backwards)

        every = source is not target or piecewise
        chunks = [chunk for chunk in self._chunks if every or chunk.row.coding != Coding.SAME]
        if not all(_ordered_map(write, chunks, self._threads)):
            raise IntegrityFault(
                self._damaged("did not give the weights that it was made from: they are half written")
            )

    def _mismatch(self, problem: str) -> str:
        return (
            f"these weights are not those that delta {self.sha256} starts from: they {problem}. "
            f"Nothing was written; restore the weights from base {self.base_sha256} first"
        )

    def _damaged(self, problem: str) -> str:
        return (
            f"delta {self.sha256} {problem}; "
            "roll back to another checkpoint, or restore this file from a backup"
        )


def _ordered_map(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[_Result]:
    """Yield the results in the order of the items, computed by threads that never run far ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _coded(
    piece: Piece, before: Array | None, after: Array, known: bytes | None
) -> tuple[ChunkRow, bytes | memoryview]:
    """Return one chunk's row and payload; the base's chunk is not read if its known hash is the new one's."""
    new = _hash(after)
    if before is None:
        packed = pack_whole(after)
        return ChunkRow(_NO_HASH, new, len(packed.payload), packed.changed, packed.coding), packed.payload
    if known == new:
        return ChunkRow(new, new, 0, 0, Coding.SAME), b""
    old = _hash(before)
    if known not in (None, old):
        raise IntegrityFault(f"the base is damaged in {piece.name}; restore its file from a backup")
    if old == new:
        return ChunkRow(old, new, 0, 0, Coding.SAME), b""
    packed = pack(before, after) if by_elements(piece.dtype) else pack_whole(after)
    return ChunkRow(old, new, len(packed.payload), packed.changed, packed.coding), packed.payload


def _apply(chunk: CodedChunk, array: Array, *, backwards: bool) -> bool:
    """Bring an array to the chunk's other end, in place; return whether the result has the right hash."""
    _, row, payload = chunk
    if row.coding != Coding.SAME:
        packed = Packed(coding=Coding(row.coding), changed=row.changed, payload=payload)
        try:
            apply(packed, array, backwards=backwards)
        except (ValueError, IndexError):
            return False
    return _hash(array) == (row.before if backwards else row.after)


def _empty(dtype: str, shape: tuple[int, ...]) -> RawTensor:
    data = memoryview(bytearray(ITEM_BYTES[dtype] * prod(shape)))
    return RawTensor(dtype=dtype, shape=shape, data=data)


def _hash(array: Array) -> bytes:
    return xxhash.xxh3_128_digest(array.data)
