"""The quality report: every metric of every concept, with a verdict in words.

Invariant: all functions are pure. A report's JSON has no NaN: a number that cannot be computed is null. The
report contains the bounds of its verdicts. This module knows nothing about models or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agents.readout.concept_vectors import Numbers
from agents.readout.quality import groups, metrics
from agents.readout.quality.attention_heads import HeadContributions, WritingHeads, writing_heads
from agents.readout.quality.labelled_activations import BASELINE, LabelledActivations
from agents.readout.quality.metrics import Neuron

CLEAN, FRAGMENTED = 0.7, 0.4
"""Share of the first principal component above which a concept is clean, and share below which it is
fragmented."""
SAME_LINE = 0.7
"""Cosine of the first component and the vector below which they count as different directions."""
ALIGNED = 0.4
"""Mean alignment below which a concept's texts count as pointing in opposite directions. Two texts with this
cosine have a first component with the share `CLEAN`."""
ONE_NEURON = 0.6
"""Absolute cosine with a neuron above which the concept counts as the work of this one neuron."""
REDUNDANT = 0.9
"""R^2 above which the concept counts as a sum of the others."""
UNSURE = 0.5
"""R^2 of a random direction above which the concept's R^2 proves nothing."""
MISFILED = 0.0
"""Largest alignment of a text that counts as not showing its own concept."""
OPENING = 60
"""Number of characters of a text that are quoted."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The input of a report."""

    texts: LabelledActivations
    vectors: Numbers
    """The stored concept vectors, `(n_concepts, hidden_size)`, unit norm."""
    places: Sequence[str]
    """For each text, its place in the concept set."""
    plain_texts: Sequence[str]
    """The words of each text."""
    down: Numbers | None
    """The MLP's down projection, `(hidden_size, neurons)`; None if the layer has none."""
    head_contributions: Mapping[int, HeadContributions]
    """The contributions of each layer's heads, by layer, without layers whose heads cannot be separated."""
    clusters: Mapping[str, Sequence[str]]
    """Names of the concepts in each cluster, by the cluster's name; empty without clusters."""
    skipped: Sequence[str] = field(default=())
    """Sentences on what could not be measured, and why."""


@dataclass(frozen=True, kw_only=True)
class TextAlignment:
    """One text of a concept, and how well it is aligned with the concept's other texts."""

    text: str
    """The text's place in the concept set."""
    opening: str
    alignment: float | None
    """Cosine of the text with the vector from the concept's other texts; None for a concept's only text."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Another concept with a similar vector."""

    concept: str
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Contributor:
    """Another concept with its coefficient in the regression."""

    concept: str
    coefficient: float


@dataclass(frozen=True, kw_only=True)
class ConceptMetrics:
    """All metrics of one concept; the fields are named as in `quality.json`."""

    texts: int
    first_pc: float
    first_pc_by_chance: float
    first_pc_cosine: float
    alignment: tuple[TextAlignment, ...]
    outliers: tuple[TextAlignment, ...]
    neuron: Neuron | None
    nearest: tuple[Neighbour, ...]
    r2: float
    r2_by_chance: float
    contributors: tuple[Contributor, ...]
    heads: WritingHeads | None
    accuracy: float | None

    @property
    def alignments(self) -> list[float]:
        """The alignments of the concept's texts, where they are known."""
        return [text.alignment for text in self.alignment if text.alignment is not None]

    @property
    def kind(self) -> str:
        """The first words of the verdict, from the first component's share and the texts' alignment.

        The first component's share decides: a low share is "fragmented", a middle one "mixed", a high one
        "clean". Two words replace "clean": "split", where the texts point in opposite directions, and "off
        its line", where the vector and the component point in different directions. A share that random texts
        would reach too is "too few texts to tell".
        """
        if not self.alignments or (self.first_pc > CLEAN and self.first_pc <= self.first_pc_by_chance):
            return "too few texts to tell"
        if self.first_pc < FRAGMENTED:
            return "fragmented"
        if self.first_pc <= CLEAN:
            return "mixed"
        if sum(self.alignments) / len(self.alignments) < ALIGNED:
            return "split"
        return "clean" if self.first_pc_cosine >= SAME_LINE else "off its line"

    def judge(self) -> str:
        """Return the verdict: the meaning of the metrics in words."""
        return "; ".join([self.kind, *self._remarks()])

    def _remarks(self) -> list[str]:
        """Return the further clauses of the verdict."""
        remarks, neuron = [], self.neuron
        if neuron and abs(neuron.cosine) > ONE_NEURON:
            named = f"{neuron.index}, cosine {neuron.cosine:+.2f}"
            sure = abs(neuron.cosine) > neuron.by_chance
            remarks.append(
                f"one neuron ({named})" if sure else f"near a neuron, as random texts are ({named})"
            )
        if self.r2 > REDUNDANT and self.r2_by_chance <= UNSURE:
            terms = ", ".join(f"{one.coefficient:+.1f} {one.concept}" for one in self.contributors[:3])
            remarks.append(f"redundant (R\u00b2 {self.r2:.2f}: {terms})")
        misfiled = [
            one.text for one in self.outliers if one.alignment is not None and one.alignment <= MISFILED
        ]
        if misfiled:
            remarks.append(f"does not fit its texts: {', '.join(misfiled)}")
        return remarks


@dataclass(frozen=True, kw_only=True)
class ConceptQuality(ConceptMetrics):
    """All metrics of one concept, with the verdict on them."""

    verdict: str


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """The accuracy of classifying each text with vectors that are computed from all other texts."""

    accuracy: float
    by_chance: float
    above_chance: bool
    """Whether the accuracy is more than three standard errors above chance."""


@dataclass(frozen=True, kw_only=True)
class ClusterQuality:
    """Cohesion of one cluster (see `groups.Cohesion`); the fields are named as in `quality.json`."""

    within: float
    between: float
    gap: float
    members: int


@dataclass(frozen=True, kw_only=True)
class ClusterReport:
    """Cohesion of all clusters."""

    clusters: dict[str, ClusterQuality]
    gap: float | None
    """Mean gap of the clusters; None without clusters."""
    reason: str
    """Why `gap` is None; "" if there is a gap."""


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """The results in `quality.json`; `page.Subject` has the other fields."""

    texts: int
    baselines: int
    bounds: dict[str, float]
    leave_one_out: LeaveOneOut
    cohesion: ClusterReport
    skipped: tuple[str, ...]
    concepts: dict[str, ConceptQuality]


def build(evidence: Evidence) -> QualityReport:
    """Return the report with all metrics of all concepts."""
    texts = evidence.texts
    correct = groups.classified_correctly(texts)
    concepts = _concepts(evidence, correct)
    shown = texts.labels != BASELINE
    return QualityReport(
        texts=int(shown.sum()),
        baselines=int((~shown).sum()),
        bounds={
            "clean": CLEAN,
            "fragmented": FRAGMENTED,
            "one_neuron": ONE_NEURON,
            "redundant": REDUNDANT,
            "ridge_lambda": metrics.LAMBDA,
        },
        leave_one_out=_leave_one_out(float(correct[shown].mean()), int(shown.sum()), len(texts.concepts)),
        cohesion=_cohesion(evidence),
        skipped=(*evidence.skipped, *_uninformative(concepts, texts.activations.shape[1])),
        concepts=concepts,
    )


def _leave_one_out(accuracy: float, texts: int, concepts: int) -> LeaveOneOut:
    chance = 1 / concepts
    error = (chance * (1 - chance) / texts) ** 0.5
    return LeaveOneOut(accuracy=accuracy, by_chance=chance, above_chance=bool(accuracy > chance + 3 * error))


def _cohesion(evidence: Evidence) -> ClusterReport:
    """Return the cohesion of each cluster, and the mean gap of all clusters."""
    number = {name: index for index, name in enumerate(evidence.texts.concepts)}
    members = {
        name: [number[member] for member in cluster if member in number]
        for name, cluster in evidence.clusters.items()
    }
    cohesions = groups.cohesion(evidence.vectors, members)
    if not cohesions:
        return ClusterReport(clusters={}, gap=None, reason="these concepts stand in no clusters")
    clusters = {
        name: ClusterQuality(within=one.within, between=one.between, gap=one.gap, members=one.members)
        for name, one in cohesions.items()
    }
    gap = float(np.mean([one.gap for one in cohesions.values()]))
    return ClusterReport(clusters=clusters, gap=gap, reason="")


def _concepts(evidence: Evidence, correct: Numbers) -> dict[str, ConceptQuality]:
    """Return the metrics and the verdict of each concept."""
    texts, vectors, names = evidence.texts, evidence.vectors, evidence.texts.concepts
    by_chance = metrics.draw_random_texts(texts)
    components = metrics.first_components(texts, vectors, by_chance)
    aligned = metrics.alignment(texts)
    worst = metrics.outliers(texts, aligned)
    neurons = (
        None if evidence.down is None else metrics.nearest_neurons(texts, vectors, evidence.down, by_chance)
    )
    near = metrics.nearest_concepts(vectors)
    redundant = metrics.redundancy(texts, vectors)

    def text(index: int) -> TextAlignment:
        value = aligned[index]
        return TextAlignment(
            text=evidence.places[index],
            opening=evidence.plain_texts[index][:OPENING],
            alignment=None if np.isnan(value) else float(value),
        )

    qualities = {}
    for index, name in enumerate(names):
        mine = texts.of(index)
        concept = ConceptMetrics(
            texts=len(mine),
            first_pc=components[index].share,
            first_pc_by_chance=components[index].by_chance,
            first_pc_cosine=components[index].cosine,
            alignment=tuple(text(int(number)) for number in mine),
            outliers=tuple(text(ranked.index) for ranked in worst[index]),
            neuron=None if neurons is None else neurons[index],
            nearest=tuple(Neighbour(concept=names[one.index], cosine=one.value) for one in near[index]),
            r2=redundant[index].r2,
            r2_by_chance=redundant[index].by_chance,
            contributors=tuple(
                Contributor(concept=names[one.index], coefficient=one.value)
                for one in redundant[index].contributors
            ),
            heads=_heads(evidence.head_contributions, index),
            accuracy=float(correct[mine].mean()) if len(mine) else None,
        )
        qualities[name] = ConceptQuality(**vars(concept), verdict=concept.judge())
    return qualities


def _heads(contributions: Mapping[int, HeadContributions], concept: int) -> WritingHeads | None:
    """Return the heads' contributions to a concept; None if no layer's heads can be separated."""
    return writing_heads(contributions, concept) if contributions else None


def _uninformative(concepts: Mapping[str, ConceptQuality], hidden: int) -> list[str]:
    """Return a list with the reason why R^2 proves nothing; empty if there is none."""
    most = max(concept.r2_by_chance for concept in concepts.values())
    if most <= UNSURE:
        return []
    others = len(concepts) - 1
    return [f"R\u00b2: {others} other concepts explain {most:.2f} of any direction of {hidden} dimensions"]
