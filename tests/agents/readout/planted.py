"""Texts with a known truth: directions planted in noise, and noise alone."""

from dataclasses import replace

import numpy as np

from agents.readout.concept_vectors import Numbers
from agents.readout.quality.labelled_activations import LabelledActivations, label_activations, unit

HIDDEN = 128
NAMES = ("calm", "tense", "proud", "bored", "amused", "bitter")


def directions(count: int = len(NAMES), hidden: int = HIDDEN, seed: int = 1) -> Numbers:
    """Return orthonormal rows."""
    rng = np.random.default_rng(seed)
    return np.linalg.qr(rng.normal(size=(hidden, count)))[0].T


def texts(
    rows: Numbers | None = None,
    *,
    strength: float = 3.0,
    per_concept: int = 12,
    baselines: int = 6,
    seed: int = 2,
) -> LabelledActivations:
    """Return texts of each concept along its row, in noise of length about 1 around a shared mean."""
    rng = np.random.default_rng(seed)
    rows = directions() if rows is None else rows
    count, hidden = rows.shape
    labels = [name for name in NAMES[:count] for _ in range(per_concept)] + [None] * baselines
    place = np.repeat(np.arange(count), per_concept)
    planted = np.concatenate([strength * rows[place], np.zeros((baselines, hidden))])
    noise = rng.normal(size=planted.shape) / np.sqrt(hidden)
    return label_activations(10 * rng.normal(size=hidden) + planted + noise, labels, NAMES[:count])


def noise(**choices: int) -> LabelledActivations:
    """Return the same texts with nothing planted."""
    return texts(strength=0.0, **choices)


def vectors(of: LabelledActivations) -> Numbers:
    """Return differences of means at unit norm, `(n_concepts, hidden)`."""
    return unit(of.differences)


def mislabelled(of: LabelledActivations, text: int, concept: int) -> LabelledActivations:
    """Return the same texts with one labelled as another concept."""
    labels = of.labels.copy()
    labels[text] = concept
    return replace(of, labels=labels)
