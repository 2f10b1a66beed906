"""The report states what was planted, and identifies noise as noise."""

import json
from dataclasses import replace

import numpy as np
import pytest
from planted import HIDDEN, NAMES, directions, mislabelled, noise, texts, vectors

from agents.readout.quality import page, report
from agents.readout.quality.attention_heads import head_contributions
from agents.readout.quality.labelled_activations import LabelledActivations
from agents.readout.quality.report import Evidence
from corpus.json_edge import to_json

SUBJECT = page.Subject(
    layer=2,
    relative_depth=0.6,
    hidden_size=HIDDEN,
    corpus="world",
    corpus_sha256="ab" * 32,
    vectors="ab" * 8,
    weights_version="ab" * 32,
    weights_sha256="ab" * 32,
)
METRICS = {"first_pc", "alignment", "outliers", "neuron", "nearest", "r2", "heads", "verdict"}


def evidence(of: LabelledActivations) -> Evidence:
    rng = np.random.default_rng(3)
    inputs, weight = rng.normal(size=(len(of.labels), 4, 32)), rng.normal(size=(HIDDEN, HIDDEN))
    return Evidence(
        texts=of,
        vectors=vectors(of),
        places=[f"stories/{text}.txt" for text in range(len(of.labels))],
        plain_texts=[f"Text number {text} has *stars* in it." for text in range(len(of.labels))],
        down=rng.normal(size=(HIDDEN, 384)),
        head_contributions={2: head_contributions(inputs, weight, of, vectors(of))},
        clusters={"warm": NAMES[:3], "cold": NAMES[3:]},
        skipped=["heads of layer 3: GatedDeltaNet"],
    )


def test_a_report_is_json_with_every_metric_of_every_concept() -> None:
    written = json.loads(json.dumps(to_json(report.build(evidence(texts()))), allow_nan=False))
    assert tuple(written["concepts"]) == NAMES
    assert all(concept.keys() >= METRICS for concept in written["concepts"].values())
    calm = written["concepts"]["calm"]
    assert len(calm["alignment"]) == calm["texts"] == 12 and len(calm["outliers"]) == 2
    assert len(calm["nearest"]) == len(calm["contributors"]) == 5
    assert calm["heads"]["count"] == 4 and calm["alignment"][0].keys() == {"text", "opening", "alignment"}
    assert written["leave_one_out"]["accuracy"] == 1.0
    assert written["skipped"] == ["heads of layer 3: GatedDeltaNet"]


def test_planted_concepts_are_clean_and_noise_is_fragmented_without_further_remarks() -> None:
    for labelled, word in ((texts(), "clean"), (noise(), "fragmented")):
        quality = report.build(evidence(labelled)).concepts
        assert {concept.kind for concept in quality.values()} == {word}
        assert not any(
            "redundant" in concept.verdict or "neuron" in concept.verdict for concept in quality.values()
        )
    assert {concept.verdict for concept in report.build(evidence(texts())).concepts.values()} == {"clean"}


def test_a_planted_pair_a_planted_neuron_and_a_mislabelled_story_are_in_the_verdict() -> None:
    rows = directions()
    rows[1] = rows[0]
    given = evidence(texts(rows, strength=6.0))
    assert given.down is not None
    given.down[:, 7] = -given.vectors[3]
    quality = report.build(given).concepts
    assert "redundant (R\u00b2 0.9" in quality["calm"].verdict and "tense" in quality["calm"].verdict
    assert quality["bored"].verdict == "clean; one neuron (7, cosine -1.00)"
    wrong = report.build(evidence(mislabelled(texts(), text=3, concept=4))).concepts["amused"]
    assert wrong.outliers[0].text == "stories/3.txt"


def test_a_story_that_points_in_the_opposite_direction_is_named_in_the_verdict() -> None:
    labelled = texts()
    labelled.activations[3] = (
        2 * labelled.activations[labelled.labels != 0].mean(axis=0) - labelled.activations[3]
    )
    quality = report.build(evidence(replace(labelled))).concepts["calm"]
    assert quality.verdict.endswith("does not fit its texts: stories/3.txt")


def along_one_line(per_concept: int) -> LabelledActivations:
    """Return noise in a stream that is wide in one direction."""
    labelled = noise(per_concept=per_concept)
    labelled.activations[:] += np.outer(
        np.random.default_rng(1).normal(size=len(labelled.labels)), 9 * directions()[0]
    )
    return replace(labelled)


def test_a_neuron_that_is_as_near_to_random_texts_is_not_called_the_concept() -> None:
    given = evidence(along_one_line(2))
    assert given.down is not None
    given.down[:, 3] = directions()[0]
    verdicts = [concept.verdict for concept in report.build(given).concepts.values()]
    near = [verdict for verdict in verdicts if "(3, cosine" in verdict]
    assert near and all("near a neuron, as random texts are (3" in verdict for verdict in near)


@pytest.mark.parametrize("labelled", [texts(per_concept=1), along_one_line(2), along_one_line(12)])
def test_texts_that_lie_along_a_line_as_random_ones_do_are_not_called_clean(
    labelled: LabelledActivations,
) -> None:
    quality = report.build(evidence(labelled))
    kinds = [concept.kind for concept in quality.concepts.values()]
    assert "clean" not in kinds and "too few texts to tell" in kinds
    json.dumps(to_json(quality), allow_nan=False)


def test_two_texts_on_either_side_of_a_line_are_split() -> None:
    labelled = texts(per_concept=2)
    negatives = labelled.negatives[0]
    labelled.activations[1] = negatives - 0.2 * (labelled.activations[0] - negatives)
    quality = report.build(evidence(replace(labelled))).concepts["calm"]
    assert quality.first_pc > 0.9 and quality.kind == "split"


def test_a_report_on_noise_says_that_the_vectors_carry_no_information() -> None:
    for labelled, above in ((texts(), True), (noise(), False)):
        quality = report.build(evidence(labelled))
        assert quality.leave_one_out.above_chance is above
        assert ("say nothing" in page.markdown(SUBJECT, quality)) is not above


def test_nothing_is_called_redundant_if_the_others_explain_any_direction() -> None:
    labelled = noise(per_concept=4)
    narrow = replace(labelled, activations=labelled.activations[:, :7])
    quality = report.build(
        replace(evidence(labelled), texts=narrow, vectors=vectors(narrow), down=None, head_contributions={})
    )
    assert not any("redundant" in concept.verdict for concept in quality.concepts.values())
    assert quality.skipped[-1].startswith("R\u00b2: 5 other concepts explain 0.")


def test_a_planted_cluster_differs_from_the_rest_and_concepts_without_clusters_have_the_reason() -> None:
    assert abs(report.build(evidence(texts())).cohesion.gap) < 0.2
    quality = report.build(replace(evidence(texts()), clusters={})).cohesion
    assert quality.gap is None and quality.reason == "these concepts stand in no clusters"


def test_the_page_has_every_concept_with_its_verdict_and_no_unfilled_placeholder() -> None:
    for given in (
        evidence(texts()),
        replace(evidence(texts()), clusters={}, down=None, head_contributions={}),
    ):
        quality = report.build(given)
        text = page.markdown(SUBJECT, quality)
        for name, concept in quality.concepts.items():
            assert f"\n## {name}\n\n{concept.verdict.capitalize()}." in text
        assert "skipped: heads of layer 3: GatedDeltaNet" in text and "\\*stars\\*" in text
        assert "{" not in text and "None" not in text and "nan" not in text
        table = [line for line in text.splitlines() if line.startswith("| ") or line.startswith("|---")]
        assert {line.count("|") for line in table[:8]} == {10}
