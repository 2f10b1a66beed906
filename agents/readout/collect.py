"""Reads the residual stream of texts through the trainer, and stores the activations of a concept set.

    activations.safetensors   `stream`, `(n_texts, n_layers, hidden_size)` float32, and `heads_<layer>`,
                              `(n_texts, n_heads, head_dim)` float32: inputs of attention's output projection
    activations.json          {corpus_sha256, model, weights_version, layers, heads, skipped}

Texts are read as plain text, at their last token. The chat template is not used: its ending is the same for
all texts, and would make all last tokens alike.

Invariant: a text that occurs several times is read once. Stored activations are used only for the weights and
texts that they came from. If the weights change during a reading, the reading ends with `GateRefused`, and
nothing is stored. This module knows nothing about concept vectors.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.model.client import ModelClient
from agents.model.internals import Activations, Internals
from agents.model.steering.concept_vectors import write_files
from agents.readout.concept_vectors import Array
from corpus.aliases import Progress
from corpus.concept_sets import ConceptSet
from corpus.errors import GateRefused, IntegrityFault
from store.tensors.raw import RawTensor, parse, pieces

Floats = NDArray[np.float32]
TENSORS, CARD = "activations.safetensors", "activations.json"
PIECE = 64
"""Texts in one request to the trainer; progress is reported between requests."""
KEPT_BYTES = 2**30
"""Most bytes of activations that are stored. Larger activations are read again when they are needed."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where activations come from, and where they are stored."""

    model: ModelClient
    """Tokenizes the texts."""
    trainer: Internals
    directory: Path
    """The home's directory `readout/`."""
    model_digest: str
    """Digest of the model's directory."""
    weights_version: str
    """Digest of the served weights."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The activations of texts, in the order of the texts."""

    layers: tuple[int, ...]
    stream: Floats = field(repr=False)
    """The residual stream after each layer of `layers`, `(n_texts, n_layers, hidden_size)`."""
    heads: dict[int, Floats] = field(repr=False)
    """By layer, the inputs of attention's output projection, `(n_texts, n_heads, head_dim)`."""
    skipped: dict[int, str]
    """By layer, the name of the attention, if its heads were requested and cannot be separated."""

    def of(self, layer: int) -> Array:
        """Return the residual stream after this layer, `(n_texts, hidden_size)`."""
        return self.stream[:, self.layers.index(layer)].astype(np.float64)


async def collect(
    source: Source,
    texts: ConceptSet,
    *,
    layers: Sequence[int],
    heads: Sequence[int] = (),
    report: Progress | None = None,
) -> Collected:
    """Return the activations of a set's texts, from the stored file or else newly read and stored.

    Args:
        source: Where the activations come from and are stored.
        texts: The concept set.
        layers: Layers whose residual stream is returned.
        heads: Layers whose inputs of attention's output projection are returned.
        report: Called with the number of texts read so far, and of all texts.
    """
    known = _kept(source, texts, layers, heads)
    if known is not None:
        return known
    unique = list(dict.fromkeys(text for _, text in texts.texts))
    read = await read_texts(source, unique, layers=layers, heads=heads, report=report)
    place = {text: index for index, text in enumerate(unique)}
    rows = [place[text] for _, text in texts.texts]
    collected = Collected(
        layers=read.layers,
        stream=read.stream[rows],
        heads={layer: values[rows] for layer, values in read.heads.items()},
        skipped=read.skipped,
    )
    _keep(source, texts, collected)
    return collected


async def read_texts(
    source: Source,
    texts: Sequence[str],
    *,
    layers: Sequence[int],
    heads: Sequence[int] = (),
    report: Progress | None = None,
) -> Collected:
    """Return the activations of these texts, in their order; store nothing."""
    tokens = await source.model.tokenize_texts(list(texts))
    order: list[int] = []
    parts: list[Activations] = []
    async for numbers, part in _pieces(source, tokens, layers, heads, report):
        order += numbers
        parts.append(part)
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


async def score_texts(
    source: Source,
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    layer: int,
    report: Progress | None = None,
) -> Array:
    """Return each text's scores along the vectors, read at its last token: `(n_texts, n_concepts)`.

    `vectors`, `(n_concepts, hidden_size)`, are the concept vectors of `layer`. Of a text that is longer than
    the model's context, only the end is read.
    """
    context = (await source.model.served_model()).context
    tokens = [row[-context:] for row in await source.model.tokenize_texts(list(texts))]
    scores = np.zeros((len(tokens), len(vectors)))
    async for numbers, part in _pieces(source, tokens, (layer,), (), report):
        stream = np.frombuffer(part.data, dtype=np.float32).reshape(part.texts, part.hidden)
        scores[numbers] = stream.astype(np.float64) @ vectors.astype(np.float64).T
    return scores


async def _pieces(
    source: Source,
    tokens: Sequence[Sequence[int]],
    layers: Sequence[int],
    heads: Sequence[int],
    report: Progress | None,
) -> AsyncIterator[tuple[list[int], Activations]]:
    """Yield the activations of all texts in pieces, the shortest texts first.

    Each piece has the indices of some texts, and their activations. After the last piece, the function raises
    GateRefused if the weights have changed meanwhile.
    """
    before = (await source.trainer.status()).version
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    for first in range(0, len(order), PIECE):
        if report is not None:
            await report(first, len(order))
        numbers = order[first : first + PIECE]
        texts = [tokens[i] for i in numbers]
        yield numbers, await source.trainer.activations(texts, tuple(layers), tuple(heads))
    if report is not None:
        await report(len(order), len(order))
    if (await source.trainer.status()).version != before:
        raise GateRefused("the weights changed while texts were read: nothing was kept, ask again")


def _array(data: Sequence[bytes], shape: tuple[int, ...]) -> Floats:
    """Return the float32 values of these frames as one array `(rows, *shape)`."""
    return np.frombuffer(b"".join(data), dtype=np.float32).reshape(-1, *shape)


def _kept(source: Source, texts: ConceptSet, layers: Sequence[int], heads: Sequence[int]) -> Collected | None:
    """Return the stored activations; None if they are incomplete or of other weights or texts."""
    try:
        card = json.loads((source.directory / CARD).read_text())
        identity = _identity(source, texts)
        if {name: card.get(name) for name in identity} != identity:
            return None
        skipped = {int(layer): str(name) for layer, name in card["skipped"].items()}
        kept_layers, kept_heads = card["layers"], card["heads"]
        if not {*layers} <= {*kept_layers} or not {*heads} <= {*kept_heads, *skipped}:
            return None
        tensors = parse(source.directory / TENSORS)[1]
        return Collected(
            layers=tuple(layers),
            stream=_floats(tensors["stream"])[:, [kept_layers.index(layer) for layer in layers]],
            heads={layer: _floats(tensors[f"heads_{layer}"]) for layer in heads if layer not in skipped},
            skipped={layer: name for layer, name in skipped.items() if layer in heads},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, IntegrityFault):
        return None  # the files are only a cache: the activations are then read from the model again


def _keep(source: Source, texts: ConceptSet, collected: Collected) -> None:
    """Store these activations in place of those that were stored before."""
    heads = {f"heads_{layer}": values for layer, values in collected.heads.items()}
    arrays = {"stream": collected.stream, **heads}
    card = source.directory / CARD
    source.directory.mkdir(exist_ok=True)
    card.unlink(missing_ok=True)  # the old card must not describe new arrays
    if sum(4 * prod(values.shape) for values in arrays.values()) > KEPT_BYTES:
        (source.directory / TENSORS).unlink(missing_ok=True)
        return
    tensors = {
        name: RawTensor(dtype="F32", shape=values.shape, data=values.tobytes())
        for name, values in arrays.items()
    }
    about = {
        **_identity(source, texts),
        "layers": list(collected.layers),
        "heads": list(collected.heads),
        "skipped": {str(layer): name for layer, name in collected.skipped.items()},
    }
    write_files(source.directory, {TENSORS: pieces(tensors), CARD: [json.dumps(about, indent=1).encode()]})


def _identity(source: Source, texts: ConceptSet) -> dict[str, str]:
    """Return the fields of `activations.json` that identify the texts, the model and the weights."""
    return {
        "corpus_sha256": texts.sha256,
        "model": source.model_digest,
        "weights_version": source.weights_version,
    }


def _floats(raw: RawTensor) -> Floats:
    return np.frombuffer(raw.data, dtype=np.float32).reshape(raw.shape)
