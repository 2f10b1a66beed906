"""Looks at the vectors of a home through the trainer's view of the served weights: their quality, and what they read
in a conversation.

Invariant: the vectors are those in the home's file, held to the model and the texts that they were made from; no
second model is loaded: projections come out of the active checkpoint's file one at a time. Writes nothing but its
own pages in the home's `readout` folder. Knows no ledger.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import numpy as np

from agents.model.steering import concept_vectors
from agents.model.steering.concept_vectors import ConceptVectors
from agents.readout.collect import PIECE, Source, collected
from agents.readout.quality import heads, page, report
from agents.readout.quality.projections import DOWN, OUT, projection
from agents.readout.quality.report import Evidence
from agents.readout.quality.samples import Numbers, samples
from agents.readout.turns import WINDOW, said_until
from corpus import concept_sets, states
from corpus.aliases import Json, Progress
from corpus.concept_sets import ConceptSet, text_places
from corpus.errors import GateRefused, IntegrityFault, UsageError
from store.tensors.raw import RawTensor

QUALITY, PAGE, BASELINE = "quality.json", "quality.md", "baseline.json"


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """Looks at the vectors of the weights that are served now."""

    source: Source
    """Where activations come from; the vectors and the pages are in its folder."""
    read_at: int
    """Number of the layer that the monitor reads."""
    layers: int
    """How many layers the model has."""

    async def report(
        self, load: Callable[[], Mapping[str, RawTensor]], layer: int | None, progress: Progress | None = None
    ) -> Json:
        """The quality of every concept's vector of one layer (None: the one nearest to where the monitor reads).

        load: the tensors of the served weights, as views into their checkpoint's file.
        """
        vectors, texts = self._kept()
        chosen = layer_of(vectors, layer, self.read_at)
        evidence = await self._evidence(load, vectors, texts, chosen, progress)
        about = {
            "layer": chosen,
            "relative_depth": (chosen + 1) / self.layers,
            "hidden_size": vectors.hidden_size,
            "corpus": texts.name,
            "corpus_sha256": texts.sha256,
            "vectors": vectors.digest,
            "weights_version": vectors.weights_version,
            "weights_sha256": self.source.weights_version,
        }
        told = about | await anyio.to_thread.run_sync(report.build, evidence)
        self._write(QUALITY, json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False))
        self._write(PAGE, page.markdown(told))
        return told | {"written": str(self.source.directory / PAGE)}

    async def course(
        self,
        turns: Sequence[Mapping[str, str]],
        named: Sequence[str],
        layer: int | None,
        progress: Progress | None = None,
    ) -> Json:
        """The readings at the end of each turn of a conversation, of the named concepts, else of all.

        A reading is the score, the projection on the concept's vector, less its mean over the texts that the
        vectors were made from, in standard deviations over these.
        """
        vectors, texts = self._kept()
        chosen = layer_of(vectors, layer, self.read_at)
        values = vectors.values[vectors.layers.index(chosen)].astype(np.float64)
        mean, spread = await self._baseline(vectors, texts, chosen, progress)
        window = WINDOW[texts.name]
        found = (
            await self._at_turns(said_until([turn["text"] for turn in turns], window), chosen, progress)
            @ values.T
        )
        readings = (found - mean) / np.where(spread > 0, spread, 1)
        wanted = [vectors.concepts.index(name) for name in named or vectors.concepts]

        def of(row: Numbers) -> dict[str, float]:
            return {vectors.concepts[index]: float(row[index]) for index in wanted}

        return {
            "layer": chosen,
            "concepts": [vectors.concepts[index] for index in wanted],
            "weights_sha256": self.source.weights_version,
            "window": window,
            "baseline": {"texts": len(texts.texts), "mean": of(mean), "spread": of(spread)},
            "turns": [
                {"turn": number, **turn, "scores": of(score), "readings": of(reading)}
                for number, (turn, score, reading) in enumerate(
                    zip(turns, found, readings, strict=True), start=1
                )
            ],
        }

    def _kept(self) -> tuple[ConceptVectors, ConceptSet]:
        found = kept(self.source.directory, self.source.model_digest)
        if not all(0 <= layer < self.layers for layer in found[0].layers):
            raise IntegrityFault(
                f"the vectors in {self.source.directory} are of layers that this model has not: {CURE}"
            )
        return found

    async def _evidence(
        self,
        load: Callable[[], Mapping[str, RawTensor]],
        vectors: ConceptVectors,
        texts: ConceptSet,
        layer: int,
        progress: Progress | None,
    ) -> Evidence:
        """What the texts and the weights say about the vectors of one layer."""
        read = await collected(self.source, texts, layers=[layer], heads=range(layer + 1), report=progress)
        if read.stream.shape[2] != vectors.hidden_size:
            raise IntegrityFault(f"the vectors in {self.source.directory} are another model's: {CURE}")
        found = samples(read.of(layer), texts.labels, texts.concepts)
        values = vectors.values[vectors.layers.index(layer)]
        tensors = await anyio.to_thread.run_sync(load)
        down = projection(tensors, layer, DOWN)
        skipped = [down] if isinstance(down, str) else []
        skipped += [
            f"heads of layer {number}: its attention is {name}" for number, name in read.skipped.items()
        ]
        parts = {}
        for number, inputs in read.heads.items():
            out = projection(tensors, number, OUT)
            if isinstance(out, str):
                skipped.append(f"heads: {out}")
            else:
                parts[number] = await anyio.to_thread.run_sync(heads.parts, inputs, out, found, values)
        return Evidence(
            samples=found,
            vectors=values,
            places=text_places(texts),
            texts=[text for _, text in texts.texts],
            down=None if isinstance(down, str) else down,
            parts=parts,
            clusters=clusters_of(texts),
            skipped=skipped,
        )

    async def _baseline(
        self, vectors: ConceptVectors, texts: ConceptSet, layer: int, progress: Progress | None
    ) -> tuple[Numbers, Numbers]:
        """Mean and standard deviation of the scores over the vectors' own texts, `(n_concepts,)`; kept for later."""
        weights = self.source.weights_version
        of = {
            "vectors": vectors.digest,
            "weights_sha256": weights,
            "layer": layer,
            "corpus_sha256": texts.sha256,
        }
        try:
            known = json.loads((self.source.directory / BASELINE).read_text())
            if known["of"] == of:
                return np.array(known["mean"]), np.array(known["spread"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or it is damaged: it is made anew
        read = await collected(self.source, texts, layers=[layer], report=progress)
        found = read.of(layer) @ vectors.values[vectors.layers.index(layer)].astype(np.float64).T
        mean, spread = found.mean(axis=0), found.std(axis=0)
        self._write(BASELINE, json.dumps({"of": of, "mean": mean.tolist(), "spread": spread.tolist()}))
        return mean, spread

    async def _at_turns(self, said: Sequence[str], layer: int, progress: Progress | None) -> Numbers:
        """The residual stream after a layer at the end of each turn, `(n_turns, hidden_size)` float64.

        Of what was said before a turn, as much is read as the model's context holds.
        """
        trainer, model = self.source.trainer, self.source.model
        before = (await trainer.status()).version
        context = (await model.models()).context
        tokens = [row[-context:] for row in await model.tokenize_texts(said)]
        rows = []
        for start in range(0, len(tokens), PIECE):
            found = await trainer.activations(tokens[start : start + PIECE], [layer])
            rows.append(np.frombuffer(found.data, dtype=np.float32).reshape(found.texts, found.hidden))
            if progress is not None:
                await progress(min(start + PIECE, len(tokens)), len(tokens))
        if (await trainer.status()).version != before:
            raise GateRefused("the weights changed while the conversation was read: ask again")
        return np.concatenate(rows).astype(np.float64)

    def _write(self, name: str, text: str) -> None:
        concept_vectors.write_files(self.source.directory, {name: [text.encode()]})


CURE = "run `nightschool readout train` again"


def kept(directory: Path, model_digest: str = "") -> tuple[ConceptVectors, ConceptSet]:
    """A home's vectors and the texts that they were made from; an error that says what to do where there are none,
    or they do not fit the model of this digest ("": any) or these texts."""
    found = concept_vectors.read(directory, model=model_digest)
    if found is None:
        raise UsageError(
            f"there are no concept vectors in {directory}: run `nightschool readout train` first"
        )
    for name in concept_sets.NAMES:
        texts = concept_sets.load(name)
        if texts.concepts == found.concepts:
            concept_vectors.read(directory, corpus_sha256=texts.sha256)
            return found, texts
    raise IntegrityFault(f"the vectors in {directory} are of concepts that no texts here show: {CURE}")


def layer_of(vectors: ConceptVectors, wanted: int | None, read_at: int) -> int:
    """The layer to look at: the one that was named, else the vectors' one nearest to where the monitor reads."""
    if wanted is None:
        return min(vectors.layers, key=lambda layer: (abs(layer - read_at), layer))
    if wanted not in vectors.layers:
        there = ", ".join(map(str, vectors.layers))
        raise UsageError(
            f"there are no vectors of layer {wanted}, only of {there}: `nightschool readout train --layers`"
        )
    return wanted


def clusters_of(texts: ConceptSet) -> Mapping[str, Sequence[str]]:
    """The manifest's clusters; none for the world's concepts."""
    return states.CLUSTERS if texts.name == "states" else {}
