"""Examines a home's concept vectors on the served weights: reports their quality, and reads conversations.

Invariant: the concept vectors are the home's, and they must fit the model and the texts that they were made
from. No second model is loaded: weight matrices are read from the active checkpoint's file, one at a time.
This module writes only its own pages, in the home's `readout` folder. It knows nothing about the ledger.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import numpy as np

from agents.model.steering.concept_vectors import ConceptVectors, read, write_files
from agents.readout.collect import Source, collect, score_texts
from agents.readout.concept_vectors import Numbers
from agents.readout.conversations import WINDOW, turn_texts
from agents.readout.quality import page, report
from agents.readout.quality.attention_heads import HeadContributions, head_contributions
from agents.readout.quality.labelled_activations import label_activations
from agents.readout.quality.page import WrittenReport
from agents.readout.quality.report import Evidence
from corpus import concept_sets, states
from corpus.aliases import Json, Progress
from corpus.concept_sets import ConceptSet, text_places
from corpus.errors import IntegrityFault, UsageError
from corpus.json_edge import to_json
from store.tensors.numbers import count, values
from store.tensors.raw import RawTensor

QUALITY, PAGE, BASELINE = "quality.json", "quality.md", "baseline.json"
CURE = "run `nightschool readout train` again"
OUT, DOWN = "self_attn.o_proj.weight", "mlp.down_proj.weight"
"""Hugging Face's names of attention's output projection and of the MLP's down projection in a layer."""
NORMS = ("post_feedforward_layernorm.weight", "post_mlp_layernorm.weight", "post_self_attn_layernorm.weight")
"""Names of norms between a projection and the residual stream. With such a norm, the output of one column
depends on all others, so that heads or neurons cannot be separated."""

LoadTensors = Callable[[], Mapping[str, RawTensor]]
"""A function that returns the tensors of the served weights by name, as views into the checkpoint's file."""


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """Examines the concept vectors on the weights that are served now."""

    source: Source
    """Source of activations. The concept vectors and the pages are in its directory."""
    monitored_layer: int
    """Number of the layer that the monitor reads."""
    layers: int
    """Number of the model's layers."""

    async def report(
        self, load: LoadTensors, layer: int | None, progress: Progress | None = None
    ) -> WrittenReport:
        """Return a report on the quality of one layer's concept vectors; write it as JSON and as a page.

        Args:
            load: Returns the tensors of the served weights.
            layer: Number of the layer; None for the layer of the vectors that is nearest to the monitored
                layer.
            progress: Called with the number of texts read so far, and of all texts.
        """
        vectors, texts = self._stored()
        chosen = choose_layer(vectors, layer, self.monitored_layer)
        evidence = await self._evidence(load, vectors, texts, chosen, progress)
        subject = page.Subject(
            layer=chosen,
            relative_depth=(chosen + 1) / self.layers,
            hidden_size=vectors.hidden_size,
            corpus=texts.name,
            corpus_sha256=texts.sha256,
            vectors=vectors.digest,
            weights_version=vectors.weights_version,
            weights_sha256=self.source.weights_version,
        )
        quality = await anyio.to_thread.run_sync(report.build, evidence)
        quality_json = to_json(subject) | to_json(quality)
        self._write(QUALITY, json.dumps(quality_json, indent=1, ensure_ascii=False, allow_nan=False))
        self._write(PAGE, page.markdown(subject, quality))
        return WrittenReport(**vars(subject), **vars(quality), written=str(self.source.directory / PAGE))

    async def timeline(
        self,
        turns: Sequence[Mapping[str, str]],
        named: Sequence[str],
        layer: int | None,
        progress: Progress | None = None,
    ) -> Json:
        """Return the readings at the end of each turn of a conversation, as JSON.

        A reading is the score (the projection on the concept's vector) minus its mean over the texts that the
        vectors were made from, in standard deviations over these texts.

        Args:
            turns: The turns; their words are under "text".
            named: The concepts to read; empty for all concepts.
            layer: Number of the layer; None for the layer of the vectors that is nearest to the monitored
                layer.
            progress: Called with the number of texts read so far, and of all texts.
        """
        vectors, texts = self._stored()
        chosen = choose_layer(vectors, layer, self.monitored_layer)
        mean, deviation = await self._baseline(vectors, texts, chosen, progress)
        window = WINDOW[texts.name]
        read_texts = turn_texts([turn["text"] for turn in turns], window)
        scores = await score_texts(self.source, read_texts, vectors.of_layer(chosen), chosen, progress)
        readings = (scores - mean) / np.where(deviation > 0, deviation, 1)
        wanted = [vectors.concepts.index(name) for name in named or vectors.concepts]

        def of(row: Numbers) -> dict[str, float]:
            return {vectors.concepts[index]: float(row[index]) for index in wanted}

        return {
            "layer": chosen,
            "concepts": [vectors.concepts[index] for index in wanted],
            "weights_sha256": self.source.weights_version,
            "window": window,
            "baseline": {"texts": len(texts.texts), "mean": of(mean), "spread": of(deviation)},
            "turns": [
                {"turn": number, **turn, "scores": of(score), "readings": of(reading)}
                for number, (turn, score, reading) in enumerate(
                    zip(turns, scores, readings, strict=True), start=1
                )
            ],
        }

    def _stored(self) -> tuple[ConceptVectors, ConceptSet]:
        """Return the home's concept vectors and their texts; raise IntegrityFault if these do not fit."""
        vectors, texts = stored_vectors(self.source.directory, self.source.model_digest)
        if not all(0 <= layer < self.layers for layer in vectors.layers):
            raise IntegrityFault(
                f"the vectors in {self.source.directory} are of layers that this model has not: {CURE}"
            )
        return vectors, texts

    async def _evidence(
        self,
        load: LoadTensors,
        vectors: ConceptVectors,
        texts: ConceptSet,
        layer: int,
        progress: Progress | None,
    ) -> Evidence:
        """Return the input of a quality report: what texts and weights show about one layer's vectors."""
        read = await collect(self.source, texts, layers=[layer], heads=range(layer + 1), report=progress)
        if read.stream.shape[2] != vectors.hidden_size:
            raise IntegrityFault(f"the vectors in {self.source.directory} are another model's: {CURE}")
        labelled = label_activations(read.of(layer), texts.labels, texts.concepts)
        tensors = await anyio.to_thread.run_sync(load)
        down = find_projection(tensors, layer, DOWN)
        skipped = [down] if isinstance(down, str) else []
        skipped += [
            f"heads of layer {number}: its attention is {name}" for number, name in read.skipped.items()
        ]
        contributions: dict[int, HeadContributions] = {}
        for number, inputs in read.heads.items():
            out = find_projection(tensors, number, OUT)
            if isinstance(out, str):
                skipped.append(f"heads: {out}")
            else:
                contributions[number] = await anyio.to_thread.run_sync(
                    head_contributions, inputs, out, labelled, vectors.of_layer(layer)
                )
        return Evidence(
            texts=labelled,
            vectors=vectors.of_layer(layer),
            places=text_places(texts),
            plain_texts=[text for _, text in texts.texts],
            down=None if isinstance(down, str) else down,
            head_contributions=contributions,
            clusters=clusters_of(texts),
            skipped=skipped,
        )

    async def _baseline(
        self, vectors: ConceptVectors, texts: ConceptSet, layer: int, progress: Progress | None
    ) -> tuple[Numbers, Numbers]:
        """Return the mean and standard deviation of the scores of the vectors' own texts, `(n_concepts,)`.

        Both are stored in a file for later calls.
        """
        identity = {
            "vectors": vectors.digest,
            "weights_sha256": self.source.weights_version,
            "layer": layer,
            "corpus_sha256": texts.sha256,
        }
        try:
            known = json.loads((self.source.directory / BASELINE).read_text())
            if known["of"] == identity:
                return np.array(known["mean"]), np.array(known["spread"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # missing or damaged: it is computed again
        read = await collect(self.source, texts, layers=[layer], report=progress)
        scores = read.of(layer) @ vectors.of_layer(layer).astype(np.float64).T
        mean, deviation = scores.mean(axis=0), scores.std(axis=0)
        kept = {"of": identity, "mean": mean.tolist(), "spread": deviation.tolist()}
        self._write(BASELINE, json.dumps(kept))
        return mean, deviation

    def _write(self, name: str, text: str) -> None:
        write_files(self.source.directory, {name: [text.encode()]})


def stored_vectors(directory: Path, model_digest: str = "") -> tuple[ConceptVectors, ConceptSet]:
    """Return a home's concept vectors and the texts that they were made from.

    Raises:
        UsageError: The home has no concept vectors.
        IntegrityFault: The vectors belong to another model than that of `model_digest` ("": any model), or to
            unknown texts.
    """
    vectors = read(directory, model=model_digest)
    if vectors is None:
        raise UsageError(
            f"there are no concept vectors in {directory}: run `nightschool readout train` first"
        )
    for name in concept_sets.NAMES:
        texts = concept_sets.load(name)
        if texts.concepts == vectors.concepts:
            read(directory, corpus_sha256=texts.sha256)
            return vectors, texts
    raise IntegrityFault(f"the vectors in {directory} are of concepts that no texts here show: {CURE}")


def choose_layer(vectors: ConceptVectors, wanted: int | None, monitored: int) -> int:
    """Return the wanted layer; if `wanted` is None, the vectors' layer nearest to the monitored layer."""
    if wanted is None:
        return min(vectors.layers, key=lambda layer: (abs(layer - monitored), layer))
    if wanted not in vectors.layers:
        there = ", ".join(map(str, vectors.layers))
        raise UsageError(
            f"there are no vectors of layer {wanted}, only of {there}: `nightschool readout train --layers`"
        )
    return wanted


def clusters_of(texts: ConceptSet) -> Mapping[str, Sequence[str]]:
    """Return the names of the concepts in each cluster of a set; empty if the set has no clusters."""
    return states.CLUSTERS if texts.name == "states" else {}


def find_projection(tensors: Mapping[str, RawTensor], layer: int, name: str) -> Numbers | str:
    """Return a layer's projection as float32 `(hidden_size, inputs)`, or the reason why it cannot be used."""
    place = f"layers.{layer}."
    parts = {whole.partition(place)[2]: whole for whole in tensors if _is_in(whole, place)}
    if norm := next((norm for norm in NORMS if norm in parts), None):
        plain = name.removesuffix(".weight")
        return f"layer {layer} writes through {norm.removesuffix('.weight')}: {plain} left out"
    if name not in parts:
        kinds = sorted({part.partition(".")[0] for part in parts if "norm" not in part})
        return f"layer {layer} has {' and '.join(kinds) or 'nothing'}, without {name.removesuffix('.weight')}"
    return to_float32(tensors[parts[name]])


def to_float32(raw: RawTensor) -> Numbers:
    """Return a floating-point tensor as a float32 array of the same shape."""
    converted: Numbers = values(raw, 0, count(raw)).astype(np.float32).reshape(raw.shape)
    return converted


def _is_in(name: str, place: str) -> bool:
    """Return whether the tensor's name belongs to the language model's layer at `place`, as "layers.3."."""
    before, found, _ = name.partition(place)
    return bool(found) and before in ("", "model.", "model.language_model.")
