"""The limits of a verdict that do not belong to a single behaviour."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits that an update must not exceed."""

    perplexity: float = 1.10
    """Largest ratio of the perplexity on ordinary text after the update to that before."""
    drift: float = 1.5
    """Largest move of a concept's reading, in standard deviations over the probe set."""
    joint_drift: float = 0.5
    """Largest joint move of all readings, in standard deviations per concept."""
