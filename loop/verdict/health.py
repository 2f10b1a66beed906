"""The tests of perplexity and readings, which do not depend on the behaviours.

Invariant: pure; a figure that is not a number (NaN) never passes.
"""

from collections.abc import Mapping
from typing import Protocol

from corpus.aliases import Json
from loop.verdict.limits import Limits

MOST_NAMED = 8
"""Largest number of concepts with too large a move that a verdict names one by one."""
MOST_JOINT = 4
"""Largest number of concepts that a verdict names for the joint move of all readings."""


class JointMove(Protocol):
    """The joint move of all readings; `agents.readout.drift` defines it."""

    @property
    def distance(self) -> float:
        """The distance of the move, in standard deviations per concept."""

    @property
    def parts(self) -> dict[str, float]:
        """Each concept's part of the squared distance, by concept, largest first."""


def health(
    perplexity: tuple[float, float], drift: Mapping[str, float], joint: JointMove | None, limits: Limits
) -> tuple[list[Json], list[str]]:
    """Test the perplexity and the readings; return these tests, and a reason for each limit exceeded.

    Args:
        perplexity: The perplexity on held-out ordinary text, before and after.
        drift: How far each concept's reading moved, in standard deviations, by concept.
        joint: The joint move of all readings; None if it is not known.
        limits: The limits that the update must not exceed.
    """
    before, after = perplexity
    ratio = after / before if before > 0 else float("inf")
    tests: list[Json] = [
        {"perplexity": [round(before, 4), round(after, 4)], "ratio": round(ratio, 4)},
        {"drift": {name: round(value, 3) for name, value in sorted(drift.items())}},
    ]
    faults = []
    if not ratio <= limits.perplexity:  # also true if the ratio is NaN
        faults.append(f"perplexity on ordinary text rose {ratio:.2f}x (limit {limits.perplexity:.2f}x)")
    moved = sorted(drift.items(), key=lambda item: (-abs(item[1]), item[0]))
    beyond = [(name, value) for name, value in moved if not abs(value) <= limits.drift]
    for name, value in beyond[:MOST_NAMED]:
        faults.append(
            f"the reading of '{name}' moved by {value:+.1f} standard deviations (limit {limits.drift:.1f})"
        )
    if len(beyond) > MOST_NAMED:
        faults.append(
            f"and {len(beyond) - MOST_NAMED} more readings moved by over {limits.drift:.1f} "
            "standard deviations"
        )
    if joint is not None:
        parts = list(joint.parts.items())[:MOST_NAMED]
        tests.append(
            {"joint_drift": round(joint.distance, 3), "parts": {name: round(v, 3) for name, v in parts}}
        )
        if not joint.distance <= limits.joint_drift:
            largest = ", ".join(f"'{name}' {drift.get(name, 0.0):+.1f}" for name, _ in parts[:MOST_JOINT])
            faults.append(
                f"the readings moved together by {joint.distance:.2f} standard deviations a concept "
                f"(limit {limits.joint_drift:.2f}), most by {largest}"
            )
    return tests, faults
