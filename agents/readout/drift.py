"""How far an update moved the readings: each concept by itself, and all of them together.

    delta = (mean after - mean before) / spread before                       one a concept, in spreads over the panel
    D     = sqrt(delta' R^-1 delta / k)                                      the joint distance, k concepts

R is the correlation of the concepts' scores over the panel before the update, so D is the Mahalanobis distance
(Mahalanobis 1936) of the means, per concept: moves that always go together count once, and many small moves against
what usually goes together count although none is large alone. There are more concepts than texts, and R would have
no inverse: it is shrunk towards the identity by as much as its estimate is uncertain (Ledoit and Wolf 2004, "A
well-conditioned estimator for large-dimensional covariance matrices", theorem 3.1 and section 3.3).

Invariant: pure; both sides are the same texts read with the same vectors. Knows no limit: the verdict does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
FLOOR = 1e-6
"""The least spread that a move is held against."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How far all concepts moved together."""

    distance: float
    """D, in spreads per concept; 1 for concepts that are independent and each moved by one spread."""
    parts: dict[str, float]
    """Of D squared, by concept, largest first: they add up to it; one is negative that moved with others as usual."""


def shrunk(standardised: Numbers) -> Numbers:
    """The correlation of `(n_texts, k)` standardised scores, shrunk towards the identity: `(k, k)`."""
    texts, count = standardised.shape
    sample = standardised.T @ standardised / texts
    mean = float(np.trace(sample)) / count  # mu, (10)
    spread = float(np.sum((sample - mean * np.eye(count)) ** 2)) / count  # d^2, (11)
    rows = np.sum(standardised**2, axis=1)
    squares = np.einsum("ti,ij,tj->t", standardised, sample, standardised)
    error = float(np.sum(rows**2 - 2 * squares + np.sum(sample**2))) / texts**2 / count  # b^2, (12) and (13)
    share = 1.0 if spread <= 0 else min(1.0, error / spread)
    found: Numbers = share * mean * np.eye(count) + (1 - share) * sample  # (14)
    return found


def joint(before: Numbers, after: Numbers, concepts: Sequence[str]) -> Joint:
    """The joint distance between two readings of the panel, each `(n_texts, k)`."""
    spread = np.maximum(before.std(axis=0), FLOOR)
    delta = (after.mean(axis=0) - before.mean(axis=0)) / spread
    correlation = shrunk((before - before.mean(axis=0)) / spread)
    # A concept that the panel does not stir has no spread, and nothing to correlate: only its own move counts.
    correlation[np.diag_indices_from(correlation)] = np.maximum(np.diag(correlation), FLOOR)
    shares = delta * np.linalg.solve(correlation, delta) / len(delta)
    order = np.argsort(-shares, kind="stable")
    return Joint(
        distance=float(np.sqrt(max(0.0, shares.sum()))),
        parts={concepts[index]: float(shares[index]) for index in order},
    )
