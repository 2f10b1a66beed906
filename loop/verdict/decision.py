"""The decision on an update: did it improve or unlearn what it was meant to, and make nothing else worse?

Invariant: pure. The same measurements give the same decision, which lists every test with its figures. If the
evidence is not enough, the decision is "inconclusive" and names what has to be measured further. If nothing
more can be measured, the decision is "roll back".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from corpus.aliases import Json
from loop.verdict.behaviours import GAIN, BehaviourTest, compare, evidence_of_change
from loop.verdict.claims import Paired
from loop.verdict.evidence import ENOUGH, improved
from loop.verdict.health import JointMove, health
from loop.verdict.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision on an update, with its reasons and tests."""

    decision: str
    """The decision: keep, roll back or inconclusive."""
    reasons: list[str]
    """The reasons, as sentences for the user."""
    tests: list[Json]
    """Every test with its figures, in the form in which the ledger stores them."""
    again: tuple[str, ...] = ()
    """The names of what has to be measured further, if the decision is inconclusive. What the evidence has
    already decided is not among them: more of its scenarios would only cost tokens."""


def decide(
    paired: Sequence[Paired],
    *,
    perplexity: tuple[float, float],
    drift: Mapping[str, float],
    joint: JointMove | None = None,
    limits: Limits,
    last_round: bool,
) -> Decision:
    """Return the verdict on one update.

    Args:
        paired: The outcomes of every behaviour before and after the update.
        perplexity: The perplexity on held-out ordinary text, before and after.
        drift: How far each concept's reading moved, in standard deviations, by concept.
        joint: The joint move of all readings; None if it is not known.
        limits: The limits that the update must not exceed.
        last_round: Whether no further round may follow, so that "inconclusive" becomes "roll back".
    """
    tests = compare(paired)
    figures, harm = health(perplexity, drift, joint, limits)
    ruled = rule(tests, harm, last_round=last_round)
    return replace(ruled, tests=[*(test.as_json() for test in tests), *figures])


def rule(tests: Sequence[BehaviourTest], harm: Sequence[str], *, last_round: bool) -> Decision:
    """Return the decision that follows from tests, without their figures.

    Args:
        tests: The tests of all behaviours.
        harm: A reason for each other limit that the update exceeded.
        last_round: Whether no further round may follow.
    """
    faults = [_fall(test) for test in tests if test.outcome == "worse"]
    if faults := [*faults, *harm]:
        return Decision(decision="roll back", reasons=faults, tests=[])
    changed = evidence_of_change(tests) >= ENOUGH
    if hopeless := _hopeless(tests, changed=changed, last_round=last_round):
        return Decision(decision="roll back", reasons=hopeless, tests=[])
    if open_ := [test for test in tests if _is_open(test, changed=changed)]:
        names = tuple(test.claim.behaviour for test in open_)
        reasons = [*(_doubt(test) for test in open_ if _must_hold(test)), *_unchanged(tests, changed)]
        return Decision(decision="inconclusive", reasons=reasons, tests=[], again=names)
    return Decision(decision="keep", reasons=_kept(tests), tests=[])


def _must_hold(test: BehaviourTest) -> bool:
    """Return whether an update is kept only if this behaviour's outcome is another one."""
    return test.outcome in ("unsure", "stays")


def _is_open(test: BehaviourTest, *, changed: bool) -> bool:
    """Return whether more scenarios of a behaviour may answer a question."""
    if _must_hold(test):
        return True
    return test.claim.is_target and not changed and not _is_futile(test)


def _is_futile(test: BehaviourTest) -> bool:
    """Return whether a target will not show a change that matters, however long it is measured."""
    return test.futile >= ENOUGH or test.is_measured_out


def _hopeless(tests: Sequence[BehaviourTest], *, changed: bool, last_round: bool) -> list[str]:
    """Return the questions that no further round will answer, as reasons for the user; [] if there are none.

    Args:
        tests: The tests of all behaviours.
        changed: Whether it is shown that a target has changed as it was meant to.
        last_round: Whether no further round may follow.
    """
    doubts = [
        _doubt(test)
        for test in tests
        if _must_hold(test) and (last_round or test.is_measured_out or test.outcome == "stays")
    ]
    targets = [test for test in tests if test.claim.is_target]
    if last_round or all(_is_futile(test) for test in targets):
        doubts += _unchanged(tests, changed)
    return doubts


def _unchanged(tests: Sequence[BehaviourTest], changed: bool) -> list[str]:
    """Return the reason that no target has changed as it was meant to; [] if one has."""
    if changed:
        return []
    targets = [test for test in tests if test.claim.meant]
    few = [test for test in targets if improved([-1.0] * test.claim.scenarios) < ENOUGH]
    if targets and len(few) == len(targets):
        most = max(test.claim.scenarios for test in few)
        return [f"{most} scenarios cannot show an improvement, whatever they say: declare more held-out ones"]
    reason = "nothing that the update meant to improve has improved beyond chance"
    if targets and all(test.futile >= ENOUGH for test in targets):
        reason += f": a rise of {GAIN:.0%} or more is excluded"
    return [reason]


def _doubt(test: BehaviourTest) -> str:
    """Return the question about a behaviour that its evidence does not answer."""
    if test.claim.falls:
        return f"{test.claim.behaviour} was to be unlearnt and has not fallen beyond chance"
    return f"{test.claim.behaviour} may be worse by over {test.margin:.0%}, after {_of(test)}"


def _fall(test: BehaviourTest) -> str:
    """Return the sentence about a behaviour that is worse."""
    before, after = test.paired.before, test.paired.after
    return f"{test.claim.behaviour} fell from {before.count('1')} to {after.count('1')} of {len(before)}"


def _of(test: BehaviourTest) -> str:
    return f"{test.scenarios} scenario{'' if test.scenarios == 1 else 's'}"


def _kept(tests: Sequence[BehaviourTest]) -> list[str]:
    """Return the reasons for keeping an update, and what its evidence does not say."""
    names = {
        word: [test.claim.behaviour for test in tests if test.outcome == word]
        for word in ("improved", "unlearnt")
    }
    done = [f"{word}: {', '.join(which)}" for word, which in names.items() if which]
    if not done:
        together = [test.claim.behaviour for test in tests if test.claim.is_target]
        done = [f"improved: {' or '.join(together)} (together beyond chance, not each by itself)"]
    first = f"{'; '.join(done)}; nothing {'else ' if names['unlearnt'] else ''}taught or guarded is worse"
    few = [
        f"{test.claim.behaviour}: {_of(test)} can only exclude a fall of {test.margin:.0%} or more"
        for test in tests
        if test.outcome == "held" and test.claim.gated and test.is_widened
    ]
    untaught = [
        f"{test.claim.behaviour}, which nobody has taught yet, went from {test.paired.before.count('1')} to "
        f"{test.paired.after.count('1')} of {len(test.paired.before)}"
        for test in tests
        if test.outcome == "not gated"
    ]
    return [first, *few, *untaught]
