"""The two files of a home's concept vectors: written by `readout train` or the first night, read by the
monitor, by the reports and by a user's own vLLM.

    readout.safetensors   `layer_<number>.vectors`, `(n_concepts, hidden_size)` float32, one tensor a layer
    readout.json          {concepts, layers, hidden_size, dtype, model, weights_version, corpus_sha256}

Invariant: what is read fits together, is finite and is of the model and corpus that the reader names, or an
`IntegrityFault` says what does not. Both files are replaced whole, the card last; a card of an older version
may lack `model` and `corpus_sha256`, which then nobody can hold it to. Knows neither torch nor what a concept
is.
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
CURE = "delete it to have the vectors made anew"
LOOK_SECONDS = 1.0
"""How often a `ConceptVectorsWatcher` looks at the files at most: a look is a system call."""


@dataclass(frozen=True, kw_only=True)
class ConceptVectors:
    """Concept vectors of some layers."""

    concepts: tuple[str, ...]
    layers: tuple[int, ...]
    """Numbers of the layers, from 0: the residual stream after each is what the vectors lie in."""
    values: NDArray[np.float32]
    """`(n_layers, n_concepts, hidden_size)`."""
    weights_version: str
    """Digest of the weights that they were estimated on."""
    model: str = ""
    """Digest of the model's directory (`describe.digest`); "" where it is not known."""
    corpus_sha256: str = ""
    """Digest of the texts that they were estimated from; "" where it is not known."""

    @property
    def hidden_size(self) -> int:
        return int(self.values.shape[2])

    @property
    def steered(self) -> int:
        """Number in `layers` of the one after which the stream is steered: two thirds of the way, the first
        of two.

        With all of a model's layers in the file that is past its middle, where what is done is decided but
        not said.
        """
        return 2 * (len(self.layers) - 1) // 3

    def of_layer(self, layer: int) -> NDArray[np.float32]:
        """Return the vectors of the layer with this number, `(n_concepts, hidden_size)`."""
        row: NDArray[np.float32] = self.values[self.layers.index(layer)]
        return row

    def direction(self, concept: str) -> NDArray[np.float32]:
        """The concept's unit vector at that layer, `(hidden_size,)`."""
        row: NDArray[np.float32] = self.values[self.steered, self.concepts.index(concept)]
        return np.asarray(row / max(float(np.linalg.norm(row)), 1e-12), dtype=np.float32)

    @cached_property
    def digest(self) -> str:
        """Names these vectors: 16 hexadecimal digits of the SHA-256 of names, layers and values."""
        head = json.dumps([self.concepts, self.layers]).encode()
        return hashlib.sha256(head + self.values.tobytes()).hexdigest()[:16]


def write(directory: Path, vectors: ConceptVectors) -> None:
    """Write both files, each replaced at once."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"layer_{layer}.vectors": RawTensor(
            dtype="F32", shape=values.shape, data=values.astype(np.float32).tobytes()
        )
        for layer, values in zip(vectors.layers, vectors.values, strict=True)
    }
    about = {
        "concepts": list(vectors.concepts),
        "layers": list(vectors.layers),
        "hidden_size": vectors.hidden_size,
        "dtype": "float32",
        "model": vectors.model,
        "weights_version": vectors.weights_version,
        "corpus_sha256": vectors.corpus_sha256,
    }
    write_files(directory, {TENSORS: pieces(tensors), CARD: [json.dumps(about, indent=1).encode()]})


def write_files(directory: Path, files: Mapping[str, Iterable[bytes | memoryview]]) -> None:
    """Replace each of these files of the directory, one after the other, by these bytes."""
    remove(leftovers(directory), "orphans")
    for name, parts in files.items():
        with new_file(directory, "vectors") as made:
            for part in parts:
                made.write(part)
            made.keep(name)


def read(
    directory: Path, *, model: str = "", hidden_size: int = 0, corpus_sha256: str = ""
) -> ConceptVectors | None:
    """The vectors that are kept here, or None where there are none.

    Raises `IntegrityFault` where the two files do not fit together, or are of another model, residual stream
    or corpus than the reader names.
    """
    card = directory / CARD
    try:
        about = json.loads(card.read_text())
        found = _fitted(about, parse(directory / TENSORS)[1])
        if model and found.model not in ("", model):
            raise ValueError("they are another model's")
        if hidden_size and found.hidden_size != hidden_size:
            raise ValueError(
                f"they have {found.hidden_size} values and the residual stream has {hidden_size}"
            )
        if corpus_sha256 and found.corpus_sha256 not in ("", corpus_sha256):
            raise ValueError("they were made from other texts")
        return found
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as fault:
        raise IntegrityFault(
            f"{card} and {TENSORS} cannot be used together here ({fault}): {CURE}"
        ) from fault


def _fitted(about: Any, tensors: dict[str, RawTensor]) -> ConceptVectors:
    """The vectors, each of the shape that the card says."""
    concepts, layers = tuple(about["concepts"]), tuple(about["layers"])
    if not concepts or not layers or len({*concepts}) < len(concepts) or len({*layers}) < len(layers):
        raise ValueError("it names no concept, no layer, or one of them twice")
    values = []
    for layer in layers:
        raw = tensors[f"layer_{layer}.vectors"]
        shape = (len(concepts), about.get("hidden_size", raw.shape[-1]))
        if raw.dtype != "F32" or about.get("dtype", "float32") != "float32" or raw.shape != shape:
            raise ValueError(
                f"layer {layer} has {raw.dtype} vectors of shape {raw.shape} for {len(concepts)} concepts"
            )
        values.append(np.frombuffer(raw.data, dtype=np.float32).reshape(raw.shape))
    stacked = np.stack(values)
    if not np.isfinite(stacked).all():
        raise ValueError("a vector is not finite")
    told = {name: str(about.get(name, "")) for name in ("weights_version", "model", "corpus_sha256")}
    return ConceptVectors(concepts=concepts, layers=layers, values=stacked, **told)


class ConceptVectorsWatcher:
    """The vectors of a home, read anew when their files change."""

    def __init__(
        self, directory: Path, *, hidden_size: int, layers: int, model: str = "", every: float = LOOK_SECONDS
    ) -> None:
        """`hidden_size`, `layers` (how many there are) and `model` (its digest; "" where it is not known) are
        those of the served model; `every`: seconds."""
        self._directory, self._model, self._every = directory, model, every
        self._hidden_size, self._layers = hidden_size, layers
        self._looked = -every
        self._seen: object = None
        self.vectors: ConceptVectors | None = None
        self.reason = ""
        """Why there are none."""

    def look(self) -> bool:
        """Read the files if they have changed since the last look; says whether they had."""
        if monotonic() - self._looked < self._every:
            return False
        self._looked = monotonic()
        seen = [_stamp(self._directory / name) for name in (TENSORS, CARD)]
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.vectors = read(self._directory, model=self._model)
            self.reason = self._mismatch()
        except (IntegrityFault, OSError) as fault:
            self.reason = str(fault)
        if self.reason:
            self.vectors = None
        return True

    def _mismatch(self) -> str:
        """What keeps these vectors from being the served model's."""
        if self.vectors is None:
            return (
                f"there are no concept vectors in {self._directory} yet: the first night makes them, or "
                "`nightschool readout train`"
            )
        if self.vectors.hidden_size != self._hidden_size:
            return (
                f"the concept vectors in {self._directory} have {self.vectors.hidden_size} values and the served "
                f"model's residual stream {self._hidden_size}: they are another model's, delete them"
            )
        if not all(isinstance(layer, int) and 0 <= layer < self._layers for layer in self.vectors.layers):
            return (
                f"the concept vectors in {self._directory} are of layers {list(self.vectors.layers)} and the served "
                f"model has {self._layers}: they are another model's, delete them"
            )
        return ""


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file that is replaced."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
