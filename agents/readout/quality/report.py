"""The quality report: every metric of every concept put together, with a verdict in words.

Invariant: pure, and what it returns is JSON: a number that cannot be had is null with its reason beside it, never
NaN. The bounds of a verdict stand in the report. Knows no model, no file and no table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from agents.readout.quality import groups, heads, metrics
from agents.readout.quality.samples import BASELINE, Numbers, Samples
from corpus.aliases import Json

CLEAN, FRAGMENTED = 0.7, 0.4
"""Shares of the first principal component: above the one a concept is clean, below the other it is in pieces."""
SAME_LINE = 0.7
"""Cosine of that component and the vector, below which they are two things."""
ALIGNED = 0.4
"""Mean alignment under which a concept's texts lie on both sides of their line: of two texts at this cosine, the
first component's share is `CLEAN`."""
ONE_NEURON = 0.6
"""Cosine with one neuron above which the concept is that neuron."""
REDUNDANT = 0.9
"""R^2 above which the other concepts make it up."""
UNSURE = 0.5
"""R^2 of a random direction above which R^2 is no finding."""
ASTRAY = 0.0
"""Alignment up to which a text does not show what it is filed under."""
OPENING = 60
"""Letters of a text that are quoted."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a report is made of."""

    samples: Samples
    vectors: Numbers
    """`(n_concepts, hidden_size)`, unit norm, as they are kept."""
    places: Sequence[str]
    """Where each text is found, in the order of the samples."""
    texts: Sequence[str]
    down: Numbers | None
    """`(hidden_size, neurons)`, or None where the layer has no such projection."""
    parts: Mapping[int, heads.Parts]
    """By layer, for those whose heads could be told apart."""
    clusters: Mapping[str, Sequence[str]]
    """Members of each cluster, by name; empty where the concepts stand in none."""
    skipped: Sequence[str] = field(default=())
    """What could not be measured, and why: layers by number and the name of what they have instead."""


def build(evidence: Evidence) -> Json:
    """The part of `quality.json` that the texts and the weights give."""
    samples = evidence.samples
    hits = groups.told_apart(samples)
    concepts = _concepts(evidence, hits)
    shown = samples.labels != BASELINE
    return {
        "texts": int(shown.sum()),
        "baselines": int((~shown).sum()),
        "bounds": {
            "clean": CLEAN,
            "fragmented": FRAGMENTED,
            "one_neuron": ONE_NEURON,
            "redundant": REDUNDANT,
            "ridge_lambda": metrics.LAMBDA,
        },
        "leave_one_out": _left_out(float(hits[shown].mean()), int(shown.sum()), len(samples.concepts)),
        "cohesion": _cohesion(evidence),
        "skipped": [*evidence.skipped, *_says_nothing(concepts, samples.activations.shape[1])],
        "concepts": concepts,
    }


def _left_out(accuracy: float, texts: int, concepts: int) -> Json:
    """The accuracy of leaving one story out, and whether it is above chance by three standard errors of chance."""
    chance = 1 / concepts
    error = (chance * (1 - chance) / texts) ** 0.5
    return {"accuracy": accuracy, "by_chance": chance, "above_chance": bool(accuracy > chance + 3 * error)}


def _cohesion(evidence: Evidence) -> Json:
    """Of each cluster, and the mean over all pairs within and between clusters."""
    number = {name: index for index, name in enumerate(evidence.samples.concepts)}
    members = {
        name: [number[one] for one in ones if one in number] for name, ones in evidence.clusters.items()
    }
    found = groups.cohesion(evidence.vectors, members)
    if not found:
        return {"clusters": {}, "gap": None, "reason": "these concepts stand in no clusters"}
    told = {
        name: {"within": one.within, "between": one.between, "gap": one.gap, "members": one.members}
        for name, one in found.items()
    }
    return {"clusters": told, "gap": float(np.mean([one.gap for one in found.values()])), "reason": ""}


def _concepts(evidence: Evidence, hits: Numbers) -> dict[str, Json]:
    """What is known of each concept, under the names of the metrics."""
    samples, vectors, names = evidence.samples, evidence.vectors, evidence.samples.concepts
    by_chance = metrics.drawn(samples)
    spreads = metrics.first_pc(samples, vectors, by_chance)
    aligned = metrics.alignment(samples)
    worst = metrics.outliers(samples, aligned)
    neurons = None if evidence.down is None else metrics.neuron(samples, vectors, evidence.down, by_chance)
    near = metrics.nearest(vectors)
    redundant = metrics.redundancy(samples, vectors)

    def text(index: int) -> Json:
        value = aligned[index]
        opening = evidence.texts[index][:OPENING]
        place = {"text": evidence.places[index], "opening": opening}
        return {**place, "alignment": None if np.isnan(value) else float(value)}

    told = {}
    for index, name in enumerate(names):
        mine = samples.of(index)
        found = {
            "texts": len(mine),
            "first_pc": spreads[index].share,
            "first_pc_by_chance": spreads[index].by_chance,
            "first_pc_cosine": spreads[index].cosine,
            "alignment": [text(int(one)) for one in mine],
            "outliers": [text(one.index) for one in worst[index]],
            "neuron": None if neurons is None else asdict(neurons[index]),
            "nearest": [{"concept": names[one.index], "cosine": one.value} for one in near[index]],
            "r2": redundant[index].r2,
            "r2_by_chance": redundant[index].by_chance,
            "contributors": [
                {"concept": names[one.index], "coefficient": one.value}
                for one in redundant[index].contributors
            ],
            "heads": _heads(evidence.parts, index),
            "accuracy": float(hits[mine].mean()) if len(mine) else None,
        }
        told[name] = {**found, "verdict": verdict(found)}
    return told


def _says_nothing(concepts: Mapping[str, Json], hidden: int) -> list[str]:
    """Why R^2 is no finding, where the other concepts explain most of whatever there is."""
    most = max(found["r2_by_chance"] for found in concepts.values())
    if most <= UNSURE:
        return []
    return [
        f"R\u00b2: {len(concepts) - 1} other concepts explain {most:.2f} of any direction of {hidden} dimensions"
    ]


def _heads(parts: Mapping[int, heads.Parts], concept: int) -> Json | None:
    """The heads that write a concept; None where no layer's could be told apart."""
    if not parts:
        return None
    found = heads.writers(dict(parts), concept)
    top = [
        {"layer": one.layer, "head": one.head, "norm": one.norm, "selectivity": one.selectivity}
        for one in found.top
    ]
    return {"top": top, "concentration": found.concentration, "count": found.count}


def verdict(found: Json) -> str:
    """What the numbers of one concept come to, in words; `kind` alone is its first word or two."""
    return "; ".join([kind(found), *_remarks(found)])


def kind(found: Json) -> str:
    """Whether its texts lie the same way from all others: clean, mixed or fragmented, by the first component's share;
    where that is high, `split` if they lie on both sides of the line and `off its line` if the vector is another."""
    share, chance = found["first_pc"], found["first_pc_by_chance"]
    aligned = [one["alignment"] for one in found["alignment"] if one["alignment"] is not None]
    if not aligned or (share > CLEAN and share <= chance):
        return "too few texts to tell"
    if share < FRAGMENTED:
        return "fragmented"
    if share <= CLEAN:
        return "mixed"
    if sum(aligned) / len(aligned) < ALIGNED:
        return "split"
    return "clean" if found["first_pc_cosine"] >= SAME_LINE else "off its line"


def _remarks(found: Json) -> list[str]:
    """What else is to be said: each a clause of its own."""
    remarks, neuron = [], found["neuron"]
    if neuron and abs(neuron["cosine"]) > ONE_NEURON:
        named = f"{neuron['index']}, cosine {neuron['cosine']:+.2f}"
        sure = abs(neuron["cosine"]) > neuron["by_chance"]
        remarks.append(f"one neuron ({named})" if sure else f"near a neuron, as random texts are ({named})")
    if found["r2"] > REDUNDANT and found["r2_by_chance"] <= UNSURE:
        summed = ", ".join(f"{one['coefficient']:+.1f} {one['concept']}" for one in found["contributors"][:3])
        remarks.append(f"redundant (R\u00b2 {found['r2']:.2f}: {summed})")
    astray = [one["text"] for one in found["outliers"] if one["alignment"] <= ASTRAY]
    if astray:
        remarks.append(f"does not fit its texts: {', '.join(astray)}")
    return remarks
