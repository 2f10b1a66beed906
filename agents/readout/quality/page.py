"""Renders the quality report as a page of Markdown.

Invariant: all functions are pure, and every figure on the page is in the report's JSON. This module knows
nothing about metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from agents.readout.quality.attention_heads import WritingHead, WritingHeads
from agents.readout.quality.report import ClusterReport, ConceptQuality, QualityReport

NOTHING = "**That is no better than chance: these vectors say nothing.** "
HOW = """\
## How to read it

| column | what it is |
|---|---|
| PC 1 | the first principal component's share of the variance of the concept's texts about the mean of \
all others: over {clean:g} clean, under {fragmented:g} fragmented; in brackets the share that as many random \
texts stay under 19 times in 20. Split: the texts lie on both sides of their line; off its line: the vector \
is not that line |
| alignment | mean cosine of a text with the vector that was estimated without it, and the worst |
| found again | share of the texts that score highest on their own concept when the vectors are made \
without them |
| neuron | the neuron of this layer's MLP that writes most nearly along the vector: over {one_neuron:g}, it \
is the concept; in brackets the cosine that vectors of random texts stay under |
| R\u00b2 | share of the vector that a ridge regression (lambda {ridge_lambda:g}) on all other concepts \
explains, these being estimated as if it did not exist: over {redundant:g} redundant; in brackets the share \
of a random direction |
| heads | the attention head whose output differs most in the mean, as layer.head: the length of that \
difference, and how far it sets the concept apart (d', in standard deviations); concentration is 1 if one \
head does it all |
"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The concept vectors and weights of a quality report; the fields are named as in `quality.json`."""

    layer: int
    relative_depth: float
    hidden_size: int
    corpus: str
    corpus_sha256: str
    vectors: str
    """Digest of the concept vectors."""
    weights_version: str
    """Digest of the weights that the vectors were made on."""
    weights_sha256: str
    """Digest of the weights that are served now."""


@dataclass(frozen=True, kw_only=True)
class WrittenReport(QualityReport, Subject):
    """A quality report and its subject, with the path of the page that was written."""

    written: str


def markdown(subject: Subject, report: QualityReport) -> str:
    """Return the page as Markdown."""
    classified = report.leave_one_out
    verdict = "" if classified.above_chance else NOTHING
    head = [
        f"# Quality of {len(report.concepts)} concept vectors",
        "",
        f"Layer {subject.layer} ({subject.relative_depth:.0%} of the depth), {report.texts} texts and "
        f"{report.baselines} baselines, weights `{subject.weights_sha256[:12]}`; vectors estimated on "
        f"`{subject.weights_version[:12]}`.",
        "",
        f"Leaving one story out, {classified.accuracy:.1%} of the texts are found again (by chance "
        f"{classified.by_chance:.1%}). {verdict}{_cohesion(report.cohesion)}",
        "",
    ]
    skipped = [f"* skipped: {reason}" for reason in report.skipped]
    sections = [_section(name, concept) for name, concept in report.concepts.items()]
    how = HOW.format(**report.bounds)
    gap = [""] if skipped else []
    return "\n".join([*head, *skipped, *gap, *_table(report.concepts), "", how, *sections])


def _cohesion(cohesion: ClusterReport) -> str:
    if cohesion.gap is None:
        return f"No cohesion: {cohesion.reason}."
    name, worst = min(cohesion.clusters.items(), key=lambda item: item[1].gap)
    return (
        f"Members of a cluster are nearer to each other than to the rest by a cosine of {cohesion.gap:.2f} "
        f"on average; least in {name} ({worst.gap:.2f})."
    )


def _table(concepts: Mapping[str, ConceptQuality]) -> list[str]:
    rows = [
        "| concept | verdict | texts | PC 1 | alignment | found again | neuron | R\u00b2 | heads |",
        "|---" * 9 + "|",
    ]
    for name, concept in concepts.items():
        known, neuron = concept.alignments, concept.neuron
        cells = [
            name,
            concept.verdict,
            str(concept.texts),
            f"{concept.first_pc:.2f} ({concept.first_pc_by_chance:.2f})",
            f"{sum(known) / len(known):.2f}, {min(known):.2f}" if known else "",
            "" if concept.accuracy is None else f"{concept.accuracy:.0%}",
            "" if neuron is None else f"{abs(neuron.cosine):.2f} ({neuron.by_chance:.2f})",
            f"{concept.r2:.2f} ({concept.r2_by_chance:.2f})",
            "" if concept.heads is None else _first_head(concept.heads),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _first_head(heads: WritingHeads) -> str:
    first = heads.top[0]
    separation = round(first.selectivity, 1) + 0.0
    return f"{_place(first)}: {first.norm:.2f}, d' {separation:.1f}; {heads.concentration:.2f}"


def _place(head: WritingHead) -> str:
    return f"{head.layer}.{head.head}"


def _section(name: str, concept: ConceptQuality) -> str:
    """Return one concept's section as Markdown."""
    lines = [f"## {name}", "", f"{concept.verdict.capitalize()}.", ""]
    near = ", ".join(f"{one.concept} {one.cosine:+.2f}" for one in concept.nearest)
    terms = ", ".join(f"{one.coefficient:+.2f} {one.concept}" for one in concept.contributors)
    lines += [f"* nearest: {near or 'none'}", f"* made of: {terms or 'nothing'} (R\u00b2 {concept.r2:.2f})"]
    if concept.heads:
        heads = ", ".join(
            f"{_place(one)} ({one.norm:.2f}, {one.selectivity:+.1f})" for one in concept.heads.top
        )
        lines.append(f"* heads, as layer.head (length, d'): {heads}")
    for one in concept.outliers:
        lines.append(
            f"* worst aligned: {one.text} ({one.alignment:+.2f}): \u201c{_escape(one.opening)}\u201d"
        )
    return "\n".join([*lines, ""])


def _escape(text: str) -> str:
    """Return the text with Markdown's special characters escaped."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
