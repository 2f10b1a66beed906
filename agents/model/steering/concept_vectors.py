"""The two files of a home's concept vectors.

`readout train` or the first night writes them; the monitor, the reports and a user's own vLLM read them.

    readout.safetensors   `layer_<number>.vectors`, `(n_concepts, hidden_size)` float32, one tensor a layer
    readout.json          {concepts, layers, hidden_size, dtype, model, weights_version, corpus_sha256}

Invariant: vectors that are read fit together, are finite, and come from the model and corpus that the reader
names; otherwise an `IntegrityFault` says why not. Both files are replaced whole, readout.json last. A
readout.json of an older version may lack `model` and `corpus_sha256`, and then these two are not checked.
This module knows nothing about torch or the meaning of a concept.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpus.errors import IntegrityFault
from store.files.durable import leftovers, new_file, remove
from store.tensors.raw import RawTensor, parse, pieces

TENSORS, CARD = "readout.safetensors", "readout.json"
CURE = "delete it to have the vectors made again"
LOOK_SECONDS = 1.0
"""Shortest time in seconds between two looks of a `ConceptVectorsWatcher` at its files; each look costs two
system calls."""


@dataclass(frozen=True, kw_only=True)
class ConceptVectors:
    """One vector for each concept at each of some layers."""

    concepts: tuple[str, ...]
    layers: tuple[int, ...]
    """Numbers of the layers, from 0; the vectors lie in the residual stream after each."""
    values: NDArray[np.float32]
    """`(n_layers, n_concepts, hidden_size)`."""
    weights_version: str
    """Digest of the weights that the vectors were estimated on."""
    model: str = ""
    """Digest of the model's directory (`describe.digest`); "" if it is not known."""
    corpus_sha256: str = ""
    """Digest of the texts that the vectors were estimated from; "" if it is not known."""

    @property
    def hidden_size(self) -> int:
        """Number of values in one vector."""
        return int(self.values.shape[2])

    @property
    def steered(self) -> int:
        """Position in `layers` of the layer at which the model is steered: two thirds of the way.

        If `layers` has all of a model's layers, this is past the middle. There the model has decided what to
        do, but not yet what to say.
        """
        return 2 * (len(self.layers) - 1) // 3

    def of_layer(self, layer: int) -> NDArray[np.float32]:
        """Return the vectors of the layer with this number, `(n_concepts, hidden_size)`."""
        row: NDArray[np.float32] = self.values[self.layers.index(layer)]
        return row

    def direction(self, concept: str) -> NDArray[np.float32]:
        """Return the concept's unit vector at the steered layer, `(hidden_size,)`."""
        row: NDArray[np.float32] = self.values[self.steered, self.concepts.index(concept)]
        return np.asarray(row / max(float(np.linalg.norm(row)), 1e-12), dtype=np.float32)

    @cached_property
    def digest(self) -> str:
        """The id of these vectors: 16 hexadecimal digits of the SHA-256 of concepts, layers and values."""
        head = json.dumps([self.concepts, self.layers]).encode()
        return hashlib.sha256(head + self.values.tobytes()).hexdigest()[:16]


def write(directory: Path, vectors: ConceptVectors) -> None:
    """Write both files, each replaced atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"layer_{layer}.vectors": RawTensor(
            dtype="F32", shape=values.shape, data=values.astype(np.float32).tobytes()
        )
        for layer, values in zip(vectors.layers, vectors.values, strict=True)
    }
    card = {
        "concepts": list(vectors.concepts),
        "layers": list(vectors.layers),
        "hidden_size": vectors.hidden_size,
        "dtype": "float32",
        "model": vectors.model,
        "weights_version": vectors.weights_version,
        "corpus_sha256": vectors.corpus_sha256,
    }
    write_files(directory, {TENSORS: pieces(tensors), CARD: [json.dumps(card, indent=1).encode()]})


def write_files(directory: Path, files: Mapping[str, Iterable[bytes | memoryview]]) -> None:
    """Write these files into the directory, in this order; each replaces the file of its name atomically.

    files: the content of each file, by its name.
    """
    remove(leftovers(directory), "orphans")
    for name, parts in files.items():
        with new_file(directory, "vectors") as made:
            for part in parts:
                made.write(part)
            made.keep(name)


def read(
    directory: Path, *, model: str = "", hidden_size: int = 0, corpus_sha256: str = ""
) -> ConceptVectors | None:
    """Return the vectors in this directory, or None if there are none.

    Args:
        directory: The folder of the two files.
        model: Digest of the model that the vectors must come from; "" for any.
        hidden_size: Number of values that a vector must have; 0 for any.
        corpus_sha256: Digest of the texts that the vectors must come from; "" for any.

    Raises:
        IntegrityFault: The two files do not fit together, or do not fit the arguments.
    """
    path = directory / CARD
    try:
        vectors = _parsed(json.loads(path.read_text()), parse(directory / TENSORS)[1])
        if model and vectors.model not in ("", model):
            raise ValueError("they are another model's")
        if hidden_size and vectors.hidden_size != hidden_size:
            raise ValueError(
                f"they have {vectors.hidden_size} values and the residual stream has {hidden_size}"
            )
        if corpus_sha256 and vectors.corpus_sha256 not in ("", corpus_sha256):
            raise ValueError("they were made from other texts")
        return vectors
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as fault:
        raise IntegrityFault(
            f"{path} and {TENSORS} cannot be used together here ({fault}): {CURE}"
        ) from fault


def _parsed(card: Any, tensors: dict[str, RawTensor]) -> ConceptVectors:
    """Return the vectors in `tensors`; raise `ValueError` unless each has the shape that the card gives.

    `card` is the content of readout.json.
    """
    concepts, layers = tuple(card["concepts"]), tuple(card["layers"])
    if not concepts or not layers or len({*concepts}) < len(concepts) or len({*layers}) < len(layers):
        raise ValueError("it names no concept, no layer, or one of them twice")
    values = []
    for layer in layers:
        raw = tensors[f"layer_{layer}.vectors"]
        shape = (len(concepts), card.get("hidden_size", raw.shape[-1]))
        if raw.dtype != "F32" or card.get("dtype", "float32") != "float32" or raw.shape != shape:
            raise ValueError(
                f"layer {layer} has {raw.dtype} vectors of shape {raw.shape} for {len(concepts)} concepts"
            )
        values.append(np.frombuffer(raw.data, dtype=np.float32).reshape(raw.shape))
    stacked = np.stack(values)
    if not np.isfinite(stacked).all():
        raise ValueError("a vector is not finite")
    digests = {name: str(card.get(name, "")) for name in ("weights_version", "model", "corpus_sha256")}
    return ConceptVectors(concepts=concepts, layers=layers, values=stacked, **digests)


class ConceptVectorsWatcher:
    """A reader of one folder's concept vectors, which reads the files again when they change."""

    def __init__(
        self, directory: Path, *, hidden_size: int, layers: int, model: str = "", every: float = LOOK_SECONDS
    ) -> None:
        """Watch the files of a directory.

        Args:
            directory: The folder of the files.
            hidden_size: Width of the served model's residual stream.
            layers: Number of the served model's layers.
            model: Digest of the served model; "" if it is not known.
            every: Shortest time between two looks, in seconds.
        """
        self._directory, self._model, self._every = directory, model, every
        self._hidden_size, self._layers = hidden_size, layers
        self._looked = -every
        self._stamps: object = None
        self.vectors: ConceptVectors | None = None
        self.reason = ""
        """The reason why `vectors` is None; "" if there are vectors."""

    def look(self) -> bool:
        """Read the files if they have changed since the last look; return whether they have changed.

        Within `every` seconds of the last look this does nothing and returns False.
        """
        if monotonic() - self._looked < self._every:
            return False
        self._looked = monotonic()
        stamps = [_stamp(self._directory / name) for name in (TENSORS, CARD)]
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            self.vectors = read(self._directory, model=self._model)
            self.reason = self._mismatch()
        except (IntegrityFault, OSError) as fault:
            self.reason = str(fault)
        if self.reason:
            self.vectors = None
        return True

    def _mismatch(self) -> str:
        """Return the reason why the vectors do not fit the served model; "" if they do."""
        place, vectors = f"the concept vectors in {self._directory}", self.vectors
        if vectors is None:
            return (
                f"there are no concept vectors in {self._directory} yet: the first night makes them, or "
                "`nightschool readout train`"
            )
        if vectors.hidden_size != self._hidden_size:
            return (
                f"{place} have {vectors.hidden_size} values and the served model's residual stream "
                f"{self._hidden_size}: they are another model's, delete them"
            )
        if not all(isinstance(layer, int) and 0 <= layer < self._layers for layer in vectors.layers):
            return (
                f"{place} are of layers {list(vectors.layers)} and the served model has {self._layers}: "
                "they are another model's, delete them"
            )
        return ""


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return values that change when the file is replaced; None if there is no such file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
