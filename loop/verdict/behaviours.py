"""The test of each behaviour: what the evidence says about it so far.

Invariant: pure. A target whose rise is shown need not be held as well. Everything else that the verdict
depends on must be held.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from corpus.aliases import Json
from loop.verdict import evidence
from loop.verdict.claims import Claim, Paired, guards_among, margin_of
from loop.verdict.evidence import ENOUGH

GAIN = 0.10
"""The smallest rise of a target's pass rate that is worth waiting for: once such a rise is excluded, no more
of the target's scenarios are measured."""
Finding = Literal["improved", "unlearnt", "held", "worse", "stays", "unsure", "not gated"]


@dataclass(frozen=True, kw_only=True)
class BehaviourTest:
    """What the evidence says about one behaviour."""

    paired: Paired
    outcome: Finding
    """`stays`: it was to be unlearnt and did not fall; `unsure`: the evidence does not decide."""
    margin: float
    """The drop that must be excluded for the outcome "held"."""
    improved: float
    """E-value of a rise; of a fall if the behaviour was to be unlearnt."""
    held: float
    """E-value of a drop smaller than the margin."""
    worse: float
    """E-value of a drop greater than the behaviour's own margin."""
    futile: float
    """E-value of a change, as it was meant, that is smaller than GAIN; 0 for what is no target."""

    @property
    def claim(self) -> Claim:
        """The claim that was tested."""
        return self.paired.claim

    @property
    def scenarios(self) -> int:
        """Number of scenarios that were measured."""
        return len(self.paired.drops)

    @property
    def is_measured_out(self) -> bool:
        """Whether all scenarios of the behaviour were measured."""
        return self.scenarios >= self.claim.scenarios

    @property
    def is_widened(self) -> bool:
        """Whether too few scenarios make the margin wider than the behaviour's own, by a point or more."""
        return self.margin >= self.claim.margin + 0.01

    def as_json(self) -> Json:
        """Return the test in the form in which the ledger stores it."""
        before, after = self.paired.before, self.paired.after
        turned = list(zip(before, after, strict=True))
        return {
            "behaviour": self.claim.behaviour,
            "meant": self.claim.meant,
            **({"falls": True} if self.claim.falls else {}),
            "before": before.count("1"),
            "after": after.count("1"),
            "trials": len(before),
            "gained": turned.count(("0", "1")),
            "lost": turned.count(("1", "0")),
            "p": round(1 / max(self.improved, 1.0), 6),
            "drop_at_most": round(evidence.largest_drop(self.paired.drops), 4),
            "outcome": self.outcome,
            "scenarios": self.scenarios,
            "of": self.claim.scenarios,
            "samples": self.claim.samples,
            "margin": round(self.margin, 4),
            "own_margin": self.claim.margin,
            "e": {name: float(f"{getattr(self, name):.4g}") for name in ("improved", "held", "worse")},
            "outcomes": [before, after],
        }


def compare(paired: Sequence[Paired]) -> list[BehaviourTest]:
    """Test all behaviours of an update and return the results in the same order."""
    guards = guards_among(item.claim for item in paired)
    rises = {item.claim.behaviour: rise(item) for item in paired if item.claim.is_target}
    shown = evidence.improved_among(rises)
    return [_compare(item, guards, shown) for item in paired]


def evidence_of_change(tests: Sequence[BehaviourTest]) -> float:
    """Return the E-value of "some target has changed as it was meant to"."""
    return evidence.combined([test.improved for test in tests if test.claim.is_target])


def rise(item: Paired) -> float:
    """Return the E-value of a rise; of a fall if the behaviour was to be unlearnt."""
    return (evidence.fell if item.claim.falls else evidence.improved)(item.drops)


def _compare(item: Paired, guards: int, shown: Sequence[str]) -> BehaviourTest:
    """Test one behaviour.

    Args:
        item: Its outcomes.
        guards: Number of the night's guards.
        shown: Names of the targets whose change is shown.
    """
    claim, drops = item.claim, item.drops
    margin = margin_of(claim, guards)
    meant = [-drop for drop in drops] if claim.falls else drops
    figures = {
        "improved": rise(item),
        "held": evidence.held(drops, margin),
        "worse": evidence.worse(drops, claim.margin),
        "futile": evidence.futile(meant, GAIN) if claim.is_target else 0.0,
    }
    finding = (
        _unlearnt(item, claim.behaviour in shown, figures["futile"] >= ENOUGH)
        if claim.falls
        else _held(item, claim.behaviour in shown, figures, margin, guards)
    )
    return BehaviourTest(paired=item, outcome=finding, margin=margin, **figures)


def _held(item: Paired, is_shown: bool, figures: Mapping[str, float], margin: float, guards: int) -> Finding:
    """Return the outcome of a behaviour that was to rise or to be held."""
    claim, drops = item.claim, item.drops
    if is_shown:
        return "improved"
    if not claim.gated:
        return "held" if figures["held"] >= ENOUGH else "not gated"
    # A margin that was widened because there are few scenarios excuses no fall that these few show.
    found = evidence.fell(drops) >= ENOUGH * guards and sum(drops) >= claim.margin * len(drops)
    if figures["worse"] >= ENOUGH or (margin > claim.margin and found):
        return "worse"
    return "held" if figures["held"] >= ENOUGH else "unsure"


def _unlearnt(item: Paired, is_shown: bool, is_futile: bool) -> Finding:
    """Return the outcome of a behaviour that the update was meant to unlearn.

    A behaviour may pass too rarely before the update for a fall that matters. It counts as unlearnt already:
    its outcome is "held", unless it rose.
    """
    if is_shown:
        return "unlearnt"
    rare = item.before.count("1") < GAIN * len(item.before)
    if rare and evidence.improved(item.drops) < ENOUGH:
        return "held" if is_futile or len(item.drops) >= item.claim.scenarios else "unsure"
    return "stays" if is_futile else "unsure"
