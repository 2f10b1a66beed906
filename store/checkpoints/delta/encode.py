"""Deltas: tensors as changes to a base, which can be undone and redone in place.

Of a 16-bit tensor a delta stores the changed elements (`elements.py`), of any other tensor all elements,
because float32 changes everywhere. A delta without a base stores all elements of every tensor, compressed.
`format.py` defines the file.

Invariant: the bytes of a delta depend on the tensors, the base's digest and the release of zstd alone, not on
time, place or threads. Unless a caller asks for `piecewise`, nothing is written into a buffer before the
whole delta and every chunk that it starts from are verified. Memory is a few chunks for each thread. This
module knows nothing about directories or checkpoints, and uses no tensor library but NumPy.
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
"""The xxh3-128 of every chunk of a tensor, in order, by the tensor's name."""
Begin = Callable[[], None]
"""A callback that is called before the first byte is written, once everything is verified."""
_NO_HASH = bytes(16)
"""The hash that stands for the base's chunk if there is no base."""
_AHEAD = 2
"""Number of results for each thread that may be computed before the caller takes them."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Stream(Protocol):
    """A sink for the bytes of a delta."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of the data and return the number of bytes."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """The result of `encode`."""

    sha256: str
    nbytes: int
    changed: int
    """Number of changed elements; for a tensor in full, of all elements in the chunks that differ."""
    hashes: ChunkHashes
    """Hashes of the chunks of the new tensors."""


def chunk_hashes(tensors: Tensors, *, threads: int = THREADS) -> ChunkHashes:
    """Return the hashes of all chunks of these tensors.

    `encode` takes those of a base, and then does not read the base's unchanged chunks.
    """
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
    """Write the delta that turns `base` into `new`; return its digest, its size and its changes.

    Neither the base nor the new tensors may change during the call.

    Args:
        base: The tensors to start from; None to store `new` in full.
        new: Tensors of the same names, types and shapes.
        stream: Where the bytes of the delta are written.
        base_sha256: Digest that identifies the base; "" without a base.
        new_sha256: Digest that identifies the new tensors.
        base_hashes: Earlier `chunk_hashes` of the base; None if there are none.
        threads: Number of threads.

    Raises:
        ValueError: The base has other names, types or shapes.
        IntegrityFault: A chunk of the base no longer has the hash in `base_hashes`.
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
    """One verified and parsed delta; it turns the base's tensors into the new ones, or back.

    `undo` and `redo` change tensors in place; `write` fills other buffers. All three call `begin` before they
    write the first byte, once everything is verified. With `piecewise`, `undo` and `redo` verify each chunk
    just before they change it, while it is in the cache. This is faster, but a wrong chunk leaves tensors
    half written, and the caller has to write all of them again.
    """

    def __init__(self, whole: bytes | memoryview, sha256: str, *, threads: int = THREADS) -> None:
        """Parse the bytes of a delta; raise IntegrityFault unless `sha256` is their digest."""
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
        """Turn the base's tensors into the new tensors, in place.

        Args:
            tensors: The base's tensors.
            begin: As in the class.
            piecewise: As in the class.

        Raises:
            IntegrityFault: `tensors` are not the base's tensors; nothing was written, unless `piecewise`.
            ValueError: The tensors are read-only.
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
        """Turn the new tensors into the base's tensors, in place.

        Args:
            tensors: The new tensors.
            base: The base's tensors; needed if the delta stores tensors in full, and read for these alone.
            begin: As in the class.
            piecewise: As in the class.

        Raises:
            IntegrityFault: `tensors` or `base` are other tensors; nothing was written, unless `piecewise`.
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
        """Write the new tensors into the target's buffers, whatever the buffers hold.

        Args:
            base: The base's tensors; None for a delta without a base.
            target: The buffers, of the same names, types and shapes.
            begin: As in the class.

        Raises:
            IntegrityFault: `base` has other tensors than the base of this delta.
            ValueError: The target is read-only, or the base is needed and not given.
        """
        if base is not None:
            self._check(base, backwards=False)
        elif self.base_sha256:
            raise ValueError("this delta starts from a base, which is needed")
        self._write(base, target, None, begin, backwards=False)

    def decode(self, base: Tensors | None) -> dict[str, RawTensor]:
        """Return the new tensors in new buffers; for `base` and the errors see `write`."""
        decoded = {name: _empty(*spec) for name, spec in self.specs.items()}
        self.write(base, decoded)
        return decoded

    def stream(self, base: Tensors | None, names: Iterable[str]) -> Iterator[memoryview]:
        """Yield the bytes of the new tensors, a chunk at a time.

        Args:
            base: The base's tensors; None for a delta without a base.
            names: Names of the tensors to yield, in this order.

        Raises:
            IntegrityFault: `base` has other tensors than the base of this delta.
        """
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
        """Return whether both deltas start from the same base, with the same hash of every chunk."""
        own, others = ([chunk.row.before for chunk in delta._chunks] for delta in (self, other))
        return self.base_sha256 == other.base_sha256 and self.specs == other.specs and own == others

    def _check(self, tensors: Tensors, *, backwards: bool, only: Coding | None = None) -> None:
        """Raise IntegrityFault unless the tensors are those that the delta starts from.

        Args:
            tensors: The tensors.
            backwards: Whether they have to be the new tensors and not the base's.
            only: Check the chunks of this coding alone; None for all chunks.
        """
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
        """Write the new tensors (or backwards: the base's) into the target, and verify the result.

        Args:
            source: The tensors to start from, which may be the target; None for a delta without a base.
            target: The buffers to fill.
            base: The base's tensors, to undo tensors that are stored in full; None if there are none.
            begin: As in the class.
            backwards: Whether to undo the delta.
            piecewise: As in the class.
        """
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
    """Yield the function's result for each item, in order; threads compute only a few in advance."""
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
    """Return the row and the payload of one chunk.

    Args:
        piece: The place of the chunk.
        before: The base's chunk; None without a base.
        after: The new chunk.
        known: Hash of the base's chunk, if it was computed before. If it is also the hash of the new chunk,
            the base's chunk is not read.
    """
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
    """Make (or backwards: undo) a chunk's changes in an array; return whether the result's hash is right."""
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
