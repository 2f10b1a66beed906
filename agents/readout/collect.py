"""The residual stream of a concept set's texts, read once through the trainer's view of the served weights and kept.

    activations.safetensors   `stream`, `(n_texts, n_layers, hidden_size)` float32, and `heads_<layer>`,
                              `(n_texts, n_heads, head_dim)` float32: the input of attention's output projection
    activations.json          {corpus_sha256, model, weights_version, layers, heads, skipped}

Texts are read plain, not in the chat template, whose shared ending would make all last tokens alike, at their last
token. Invariant: an equal text is run once; what is kept is what these weights gave for these texts, or it is not
used; weights that change meanwhile are a `GateRefused`, and nothing is kept. Knows no vector.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.model.client import ModelClient
from agents.model.internals import Activations, Internals
from agents.model.steering.concept_vectors import write_files
from corpus.aliases import Progress
from corpus.concept_sets import ConceptSet
from corpus.errors import GateRefused, IntegrityFault
from store.tensors.raw import RawTensor, parse, pieces

Floats = NDArray[np.float32]
TENSORS, CARD = "activations.safetensors", "activations.json"
PIECE = 64
"""Texts in one request to the trainer: after each, progress is told."""
KEPT_BYTES = 2**30
"""Most that is kept on the disk: larger activations are read again when they are needed."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where activations come from, and are kept."""

    model: ModelClient
    """Tokenizes."""
    trainer: Internals
    directory: Path
    """`readout/` of the home."""
    model_digest: str
    """Of the model's directory."""
    weights_version: str
    """Digest of the weights that are served."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a set's texts do to the model, in the order of the set's texts."""

    layers: tuple[int, ...]
    stream: Floats = field(repr=False)
    """`(n_texts, n_layers, hidden_size)`."""
    heads: dict[int, Floats] = field(repr=False)
    """By layer, `(n_texts, n_heads, head_dim)`."""
    skipped: dict[int, str]
    """Layers whose heads were asked for and cannot be told apart, and what they have for attention."""

    def of(self, layer: int) -> NDArray[np.float64]:
        """The residual stream after this layer, `(n_texts, hidden_size)`."""
        return self.stream[:, self.layers.index(layer)].astype(np.float64)


async def collected(
    source: Source,
    texts: ConceptSet,
    *,
    layers: Sequence[int],
    heads: Sequence[int] = (),
    report: Progress | None = None,
) -> Collected:
    """The activations of a set's texts in these layers, and the heads of those; kept ones, or read now and kept."""
    known = _kept(source, texts, layers, heads)
    if known is not None:
        return known
    unique = list(dict.fromkeys(text for _, text in texts.texts))
    found = await run(source, unique, layers=layers, heads=heads, report=report)
    place = {text: index for index, text in enumerate(unique)}
    rows = [place[text] for _, text in texts.texts]
    whole = Collected(
        layers=found.layers,
        stream=found.stream[rows],
        heads={layer: values[rows] for layer, values in found.heads.items()},
        skipped=found.skipped,
    )
    _keep(source, texts, whole)
    return whole


async def run(
    source: Source,
    texts: Sequence[str],
    *,
    layers: Sequence[int],
    heads: Sequence[int] = (),
    report: Progress | None = None,
) -> Collected:
    """The activations of these texts, in their order; nothing is kept."""
    before = (await source.trainer.status()).version
    tokens = await source.model.tokenize_texts(list(texts))
    order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
    parts: list[Activations] = []
    for first in range(0, len(order), PIECE):
        if report is not None:
            await report(first, len(order))
        part = [tokens[i] for i in order[first : first + PIECE]]
        parts.append(await source.trainer.activations(part, tuple(layers), tuple(heads)))
    if report is not None:
        await report(len(order), len(order))
    if (await source.trainer.status()).version != before:
        raise GateRefused(
            "the weights changed while their activations were read: nothing was kept, ask again"
        )
    back = np.argsort(np.array(order))
    shapes = {layer: (inputs.heads, inputs.head_dim) for layer, inputs in parts[0].heads.items()}
    return Collected(
        layers=tuple(layers),
        stream=_array([part.data for part in parts], (len(layers), parts[0].hidden))[back],
        heads={
            layer: _array([part.heads[layer].data for part in parts], shapes[layer])[back] for layer in shapes
        },
        skipped=dict(parts[0].skipped),
    )


def _array(data: Sequence[bytes], shape: tuple[int, ...]) -> Floats:
    """Frames of float32 as one array `(rows, *shape)`."""
    return np.frombuffer(b"".join(data), dtype=np.float32).reshape(-1, *shape)


def _kept(source: Source, texts: ConceptSet, layers: Sequence[int], heads: Sequence[int]) -> Collected | None:
    """What is kept, if it is of these weights and texts and has all that is asked for."""
    try:
        about = json.loads((source.directory / CARD).read_text())
        if {name: about.get(name) for name in _identity(source, texts)} != _identity(source, texts):
            return None
        skipped = {int(layer): str(name) for layer, name in about["skipped"].items()}
        if not {*layers} <= {*about["layers"]} or not {*heads} <= {*about["heads"], *skipped}:
            return None
        tensors = parse(source.directory / TENSORS)[1]
        at = [about["layers"].index(layer) for layer in layers]
        return Collected(
            layers=tuple(layers),
            stream=_of(tensors["stream"])[:, at],
            heads={layer: _of(tensors[f"heads_{layer}"]) for layer in heads if layer not in skipped},
            skipped={layer: name for layer, name in skipped.items() if layer in heads},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, IntegrityFault):
        return None  # a cache: what cannot be read is made again


def _keep(source: Source, texts: ConceptSet, found: Collected) -> None:
    """Keep what was read, in place of what was kept before."""
    arrays = {"stream": found.stream, **{f"heads_{layer}": values for layer, values in found.heads.items()}}
    card = source.directory / CARD
    source.directory.mkdir(exist_ok=True)
    card.unlink(missing_ok=True)  # the old card must not vouch for new arrays
    if sum(4 * prod(values.shape) for values in arrays.values()) > KEPT_BYTES:
        (source.directory / TENSORS).unlink(missing_ok=True)
        return
    tensors = {
        name: RawTensor(dtype="F32", shape=values.shape, data=values.tobytes())
        for name, values in arrays.items()
    }
    about = {
        **_identity(source, texts),
        "layers": list(found.layers),
        "heads": list(found.heads),
        "skipped": {str(layer): name for layer, name in found.skipped.items()},
    }
    write_files(source.directory, {TENSORS: pieces(tensors), CARD: [json.dumps(about, indent=1).encode()]})


def _identity(source: Source, texts: ConceptSet) -> dict[str, str]:
    return {
        "corpus_sha256": texts.sha256,
        "model": source.model_digest,
        "weights_version": source.weights_version,
    }


def _of(raw: RawTensor) -> Floats:
    return np.frombuffer(raw.data, dtype=np.float32).reshape(raw.shape)
