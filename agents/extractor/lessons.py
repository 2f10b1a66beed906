"""Decide which behaviour a finding is about, and what it may teach.

The judges come first. If the answer fails a behaviour's judge, the finding is about that behaviour. If the
answer passes, a complaint about it contradicts the behaviour. Cue words decide only if no judge applies.

Invariant: pure; two kinds of complaint are refused, whatever their words: one about an answer that passed a
counter-behaviour, and one that could teach the model to destroy something. This module knows nothing about
the graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agents.extractor.cues import mentioned
from agents.extractor.harm import destructive, instructs, is_guarded, objects, specific
from agents.extractor.rules import Finding
from corpus.aliases import Message
from corpus.behaviour import Behaviour
from corpus.world.checks import Judgement


class Judging(Protocol):
    """The judge of answers that the extractor uses; the evaluator provides it."""

    def applies(self, behaviour: Behaviour, messages: Sequence[Message]) -> bool:
        """Return whether the behaviour applies to the conversation."""

    def judge(self, behaviour: Behaviour, messages: Sequence[Message], answer: str) -> Judgement:
        """Return whether an answer passes the behaviour's check or pattern, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The judgements of one answer.

    The answer is judged by each behaviour that applies to the request, unless the judge needs a model.
    """

    failed: Mapping[str, str]
    """The reason for each behaviour that the answer failed, by the behaviour's name."""
    passed: tuple[str, ...]
    """Names of the behaviours that the answer passed, if their judge is `specific`."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A finding, and what it teaches."""

    finding: Finding
    state: str
    """`new` (it may be trained on), `noted` (evidence only) or `refused`."""
    reason: str
    behaviour: str | None = None
    """Name of the behaviour that it is about; None if there is none."""
    supports: tuple[str, ...] = ()
    """Names of the behaviours that it is evidence for."""
    contradicts: tuple[str, ...] = ()
    """Names of the behaviours that it is evidence against."""
    proposes: bool = False
    """Whether it proposes a behaviour that nobody has declared."""


def evidence(behaviours: Mapping[str, Behaviour], judging: Judging, request: str, answer: str) -> Evidence:
    """Return the judgements of an answer by every behaviour that applies to the request.

    A check of the catalogue that holds for any request is left out: that an answer has 40 words does not show
    that a complaint about it is about its length. Only the words of the complaint can show that.
    """
    messages: list[Message] = [{"role": "user", "content": request}]
    failed, passed = dict[str, str](), list[str]()
    for name, behaviour in sorted(behaviours.items()):
        if behaviour.judge.kind == "rubric" or (behaviour.judge.is_of_catalogue and not specific(behaviour)):
            continue
        if not judging.applies(behaviour, messages):
            continue
        judgement = judging.judge(behaviour, messages, answer)
        if not judgement.passed:
            failed[name] = judgement.reason
        elif specific(behaviour):
            passed.append(name)
    return Evidence(failed=failed, passed=tuple(passed))


def decide(finding: Finding, behaviours: Mapping[str, Behaviour], judging: Judging) -> Lesson:
    """Return the lesson of a finding: the behaviour that it is about, and what it may teach."""
    if finding.kind in ("new_constraint", "changed_mind"):
        reason = f"another wish, not a complaint{_because(finding)}"
        return Lesson(finding=finding, state="noted", reason=reason)
    seen = evidence(behaviours, judging, finding.request, finding.answer)
    finding = _without_bad_better(finding, behaviours, judging)
    if not finding.negative:
        return _praise(finding, seen, behaviours)
    if refusal := _refusal(finding, seen, behaviours, judging):
        return refusal
    if finding.of == "task" and not finding.claimed:
        reason = f"corrects what came out, not a behaviour{_because(finding)}"
        return Lesson(finding=finding, state="noted", reason=reason)
    if finding.held_back and not seen.failed:
        reason = f"follows an answer that {finding.held_back}: to insist is not to correct{_because(finding)}"
        return Lesson(finding=finding, state="noted", reason=reason)
    if seen.failed:
        return _by_evidence(finding, seen, behaviours)
    if seen.passed:
        return _against(finding, seen, behaviours)
    return _by_cues(finding, behaviours)


def _praise(finding: Finding, seen: Evidence, behaviours: Mapping[str, Behaviour]) -> Lesson:
    """Return the lesson of praise for an answer, which is noted as evidence and never trained on.

    Praise for an answer that failed a counter-behaviour is refused.
    """
    failed_guards = [name for name in seen.failed if behaviours[name].counter_of]
    if failed_guards:
        name = failed_guards[0]
        reason = f"praises an answer that fails {name}: {seen.failed[name]}"
        return Lesson(finding=finding, state="refused", reason=reason, contradicts=(name,))
    reason = f"praise{_because(finding)}"
    return Lesson(
        finding=finding,
        state="noted",
        reason=reason,
        behaviour=seen.passed[0] if seen.passed else None,
        supports=seen.passed,
        contradicts=tuple(seen.failed),
    )


def _refusal(
    finding: Finding, seen: Evidence, behaviours: Mapping[str, Behaviour], judging: Judging
) -> Lesson | None:
    """Return the refusal of a complaint that could teach harm; None if the complaint is harmless."""
    harmful = destructive(*finding.recent, finding.request, finding.words)
    guards = [n for n in seen.passed if behaviours[n].counter_of]
    hurt = {behaviours[n].counter_of for n in guards} & set(seen.failed)
    if guards and (not seen.failed or harmful or hurt):
        return _refused(finding, guards[0], "the answer did what it asks for")
    if finding.kind == "edit":
        of_edit = evidence(behaviours, judging, finding.request, finding.words)
        worse = [name for name in of_edit.failed if behaviours[name].counter_of]
        if worse:
            return _refused(finding, worse[0], f"the preferred answer {of_edit.failed[worse[0]]}")
    if not harmful or any(behaviours[name].counter_of for name in seen.failed):
        return None
    guarded = [name for name in sorted(behaviours) if is_guarded(behaviours[name], behaviours)]
    hit = [name for name in guarded if name in (*seen.failed, finding.claimed, _named(finding, behaviours))]
    if hit or (guarded and objects(finding.answer)):
        guard = next(b.name for b in behaviours.values() if b.counter_of == (hit or guarded)[0])
        return _refused(finding, guard, "what was asked for cannot be undone")
    return None


def _refused(finding: Finding, guard: str, why: str) -> Lesson:
    reason = f"argues against {guard}: {why}"
    return Lesson(finding=finding, state="refused", reason=reason, contradicts=(guard,))


def _by_evidence(finding: Finding, seen: Evidence, behaviours: Mapping[str, Behaviour]) -> Lesson:
    """Return the lesson about a behaviour that the answer failed; cue words choose if there are several."""
    named = _named(finding, {name: behaviours[name] for name in seen.failed})
    name = named or next(iter(seen.failed))
    if finding.kind == "edit" and not finding.better:
        reason = f"the preferred answer fails {name} too"
        return Lesson(finding=finding, state="noted", reason=reason)
    reason = f"the answer {seen.failed[name]}{_because(finding)}"
    return Lesson(finding=finding, state="new", reason=reason, behaviour=name, supports=(name,))


def _against(finding: Finding, seen: Evidence, behaviours: Mapping[str, Behaviour]) -> Lesson:
    """Return the lesson of a complaint about an answer that passed.

    It is noted, never new, and contradicts the passed behaviours unless its words point to another behaviour.
    """
    if finding.kind == "repeated_ask":
        return Lesson(finding=finding, state="noted", reason="asked again after an answer that passed")
    named = _named(finding, behaviours)
    if named and named not in seen.passed:
        reason = f"its words point to {named}, which the request does not put to the test"
        return Lesson(finding=finding, state="noted", reason=reason)
    reason = f"complains about an answer that did what {seen.passed[0]} asks for{_because(finding)}"
    return Lesson(finding=finding, state="noted", reason=reason, contradicts=seen.passed)


def _by_cues(finding: Finding, behaviours: Mapping[str, Behaviour]) -> Lesson:
    """Return the lesson of a complaint that no judge applies to, chosen by the cue words in the complaint."""
    loose = any(instructs(text) for text in (finding.words, finding.request))
    name = "" if loose else _named(finding, behaviours) or finding.claimed
    if name in behaviours:
        reason = f"its words point to {name}{_because(finding)}"
        return Lesson(finding=finding, state="new", reason=reason, behaviour=name, supports=(name,))
    of_behaviour = finding.kind == "edit" or (finding.kind == "correction" and finding.of == "behaviour")
    reason, proposes = f"names no behaviour{_because(finding)}", of_behaviour and not loose
    return Lesson(finding=finding, state="noted", reason=reason, proposes=proposes)


def _named(finding: Finding, behaviours: Mapping[str, Behaviour]) -> str:
    """Return the name of the behaviour with the most cue words in a finding; "" for none and for a tie."""
    if finding.kind == "edit":
        return ""
    scores = {
        name: sum(len(cue.split()) + len(cue) / 100 for cue in mentioned(behaviour.cues, finding.words))
        for name, behaviour in sorted(behaviours.items())
    }
    best = max(scores.values(), default=0.0)
    named = [name for name, score in scores.items() if score == best]
    return named[0] if best > 0 and len(named) == 1 else ""


def _without_bad_better(finding: Finding, behaviours: Mapping[str, Behaviour], judging: Judging) -> Finding:
    """Return the finding, with `better` emptied if that later answer fails a judge too."""
    if not finding.better or not evidence(behaviours, judging, finding.request, finding.better).failed:
        return finding
    return replace(finding, better="")


def _because(finding: Finding) -> str:
    """Return the matched words of a finding in brackets, to be added to a reason; "" if there are none."""
    return f" ({', '.join(finding.matched[:4])})" if finding.matched else ""
