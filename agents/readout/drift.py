"""Computes how far an update moved the readings: each concept by itself, and all concepts together.

    delta = (mean after - mean before) / standard deviation before        for each concept, over the probe set
    D     = sqrt(delta' R^-1 delta / k)                                   the joint distance, k concepts

R is the correlation of the concepts' scores over the probe set before the update, so D is the Mahalanobis
distance (Mahalanobis 1936) between the two means, divided by the square root of k. Concepts that usually move
together count only once. Many small moves against the usual pattern count, even if none is large by itself.
If there are more concepts than texts, R has no inverse. So R is shrunk towards the identity: the less certain
its estimate is, the more (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional
covariance matrices", theorem 3.1 and section 3.3).

Invariant: all functions are pure, and both readings are of the same texts with the same vectors. This module
does not know how much drift is allowed: the verdict does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.readout.concept_vectors import Numbers
from store.ledger.records import LEAST_SPREAD


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How far all concepts moved together."""

    distance: float
    """D. It is 1 if the concepts are independent and each moved by one standard deviation."""
    parts: dict[str, float]
    """By concept, its contribution to D squared, largest first. A contribution can be negative if the concept
    moved with others as usual."""


def shrunk_correlation(standardised: Numbers) -> Numbers:
    """Return the correlation `(k, k)` of standardised scores `(n_texts, k)`, shrunk towards the identity."""
    texts, count = standardised.shape
    sample = standardised.T @ standardised / texts
    mean = float(np.trace(sample)) / count  # mu, (10)
    dispersion = float(np.sum((sample - mean * np.eye(count)) ** 2)) / count  # d^2, (11)
    rows = np.sum(standardised**2, axis=1)
    squares = np.einsum("ti,ij,tj->t", standardised, sample, standardised)
    error = float(np.sum(rows**2 - 2 * squares + np.sum(sample**2))) / texts**2 / count  # b^2, (12) and (13)
    share = 1.0 if dispersion <= 0 else min(1.0, error / dispersion)
    shrunk: Numbers = share * mean * np.eye(count) + (1 - share) * sample  # (14)
    return shrunk


def joint(before: Numbers, after: Numbers, concepts: Sequence[str]) -> Joint:
    """Return the joint distance between two readings of the probe set, each `(n_texts, k)`."""
    deviation = np.maximum(before.std(axis=0), LEAST_SPREAD)
    delta = (after.mean(axis=0) - before.mean(axis=0)) / deviation
    correlation = shrunk_correlation((before - before.mean(axis=0)) / deviation)
    # A concept with the same score for all texts has no correlation: only its own move counts.
    correlation[np.diag_indices_from(correlation)] = np.maximum(np.diag(correlation), LEAST_SPREAD)
    shares = delta * np.linalg.solve(correlation, delta) / len(delta)
    order = np.argsort(-shares, kind="stable")
    return Joint(
        distance=float(np.sqrt(max(0.0, shares.sum()))),
        parts={concepts[index]: float(shares[index]) for index in order},
    )
