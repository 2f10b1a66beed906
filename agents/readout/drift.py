"""How far an update moved the readings: each concept by itself, and all concepts together.

    delta = (mean after - mean before) / standard deviation before        for each concept, over the probe set
    D     = sqrt(delta' R^-1 delta / k)                                   the joint distance, k concepts

R is the correlation of the concepts' scores over the probe set before the update, so D is the Mahalanobis
distance (Mahalanobis 1936) of the means, per concept: moves that always go together count once, and many
small moves against what usually goes together count although none is large alone. There are more concepts
than texts, so R would have no inverse: it is shrunk towards the identity by as much as its estimate is
uncertain (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices",
theorem 3.1 and section 3.3).

Invariant: pure; both readings are of the same texts with the same vectors. This module knows nothing about
limits: the verdict applies them.
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
    """D, in standard deviations per concept; 1 if independent concepts each moved by one."""
    parts: dict[str, float]
    """Contribution to D squared, by concept, largest first; negative for a concept that moved with others as
    usual."""


def shrunk_correlation(standardised: Numbers) -> Numbers:
    """Return the correlation of `(n_texts, k)` standardised scores, shrunk towards the identity: `(k, k)`."""
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
    # A concept with one score for all texts has nothing to correlate: only its own move counts.
    correlation[np.diag_indices_from(correlation)] = np.maximum(np.diag(correlation), LEAST_SPREAD)
    shares = delta * np.linalg.solve(correlation, delta) / len(delta)
    order = np.argsort(-shares, kind="stable")
    return Joint(
        distance=float(np.sqrt(max(0.0, shares.sum()))),
        parts={concepts[index]: float(shares[index]) for index in order},
    )
