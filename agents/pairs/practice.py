"""The rule by which answers are asked for one after another, until a dream has a good and a bad one.

A dream of a behaviour first gets an answer without an instruction. If it fails, a good answer is missing: it
is asked for with the instruction, where that works (`agents.pairs.trial`). A dream of a counter-behaviour
mostly passes at once. Then the bad answer is the one that the model gives when it is told the behaviour's
rule: the behaviour, overdone. The rule is told where it makes good answers, unless the model overdoes it more
often elsewhere: while fewer than half of such answers fail, another place is tried.

When to stop: each kind of missing answer has a chance, the mean of the Beta posterior with a uniform prior
over the answers of that kind so far. For a dream that has failed to give it n times, the chance is multiplied
by STUBBORN / (STUBBORN + n). The answer is asked for only while its expected cost, one over the chance, is at
most MOST_ANSWERS.

Invariant: pure. The next answers depend on the dreams, their order and the answers so far, never on how the
answers are batched.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, cast

from agents.pairs import trial
from corpus.behaviour import Behaviour
from corpus.prompts import PLACEMENTS, Placement
from store.ledger.placement_trial import PlacementTrial
from store.ledger.records import Attempt, Dream, seed_of

WAVE = 128
"""Largest number of answers that are asked for before the next are chosen."""
MOST_ANSWERS = 8.0
"""Largest expected number of answers for one missing answer."""
STUBBORN = 2.0
"""How much a dream's own failures count: after so many the chance of one more answer is halved."""
OFTEN = 0.5
"""Chance of an overdone answer from which on no other place is tried for it."""
OWN_FAILURES = 0.05
"""If one more answer fails with at least this chance, a counter-behaviour's own failures are sought before
overdone answers."""
SOUGHT = 2 * trial.DREAMS
"""Number of dreams of a counter-behaviour on which that chance is first estimated."""
GUARDS = 2.0
"""Largest share of the counter-behaviour's dreams that are used, relative to the share of the behaviour's
dreams that make pairs."""

Kind = tuple[Literal["first fails", "passes later", "fails later", "told passes", "overdone"], str]
"""A kind of answer whose chance is estimated, and of which dreams: the behaviour's name; for overdone answers
the placement."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One answer to ask the model for."""

    dream: Dream
    index: int
    """Number of earlier answers to the dream in the same manner."""
    told: str | None = None
    """The behaviour whose instruction the prompt carries; None for none."""
    placement: Placement | None = None

    @property
    def seed(self) -> int:
        """The seed of the answer."""
        told = False if self.told is None else f"{self.told}:{self.placement}"
        return seed_of("attempt", self.dream.id, told, self.index)


@dataclass(frozen=True, kw_only=True)
class Caps:
    """The most answers to one dream."""

    alone: int
    """Without an instruction."""
    told: int
    """With one instruction; 0 means that no instruction is ever given."""


@dataclass(kw_only=True)
class Practice:
    """The dreams of a behaviour and its counter-behaviour, and the answers to them so far."""

    behaviour: Behaviour
    """The behaviour whose rule is told; also when only its counter-behaviour was dreamt of."""
    own: Sequence[Dream]
    """Dreams of the behaviour; none on a night that only guards the counter-behaviour."""
    counter: Sequence[Dream]
    """Dreams of the counter-behaviour."""
    caps: Caps
    known: PlacementTrial | None = None
    """The trial of an earlier night whose placement is used again; None if there is none that lifted."""
    placement: Placement | None = None
    """Where instructions are told; None while that is not known, and if they lift nowhere."""
    trial: PlacementTrial | None = None
    """The trial of this night, once it is complete; its `night_id` and `model` are the caller's."""
    attempts: dict[str, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    """The answers so far, by the dream's id, in the order in which they were asked for."""
    _trying: bool = False
    _cohort: list[Dream] = field(default_factory=list)
    """The dreams of the trial of this night."""
    _counts: dict[Kind, tuple[int, int]] = field(default_factory=dict)
    """For each kind of answer: how many gave their dream what it lacked for a pair, and how many there
    are."""

    def __post_init__(self) -> None:
        if not self.caps.told:
            return
        if self.known is not None:
            self.placement = trial.best_placement(self.known.told)
        elif self.own:
            self._trying = True
        else:  # nobody teaches the behaviour tonight, so nothing is known about its rule
            self.placement = PLACEMENTS[0]

    @property
    def lifted(self) -> bool:
        """Whether pairs may be made: False once a trial has shown that the instruction helps nowhere."""
        return self.trial is None or self.trial.placement is not None

    def add(self, attempts: Iterable[Attempt]) -> None:
        """Add the answers to what `next` has asked for, in the same order."""
        for attempt in attempts:
            self.attempts[attempt.dream_id].append(attempt)

    def next(self) -> list[Ask]:
        """Return the answers to ask for now, at most WAVE; [] if nothing more is worth its cost."""
        self._count()
        if self.known is not None and self.trial is None and not self._trying and self.own:
            passed, trials = self._counts["told passes", self.behaviour.name]
            self._trying = not trial.still_works(self.known, passed=passed, trials=trials)
        if self._trying:
            if asks := self._next_of_trial():
                return asks
            self._end_trial()
            self._count()
        if not self.lifted:
            return []
        own = self._wanted(self.own)
        return [*own, *self._wanted(self.counter[: self._guarding(len(own))])][:WAVE]

    def _guarding(self, open_: int) -> int:
        """Return the number of dreams of the counter-behaviour to use.

        All are used, unless the behaviour makes few pairs: a counter-behaviour that is trained alone would
        push its behaviour back. Then they are GUARDS times their planned share of those pairs.

        Args:
            open_: Number of the behaviour's dreams that may still make a pair.
        """
        if not self.own:
            return len(self.counter)
        pairs = sum(_has_both(self.attempts[dream.id], dream.behaviour) for dream in self.own)
        return ceil(GUARDS * (pairs + open_) * len(self.counter) / len(self.own))

    # ------------------------------------------------------------ the trial

    def _next_of_trial(self) -> list[Ask]:
        """Return the answers that the trial still needs: first failures alone, then one of each manner."""
        for dream in self.own:
            fresh = len(self.attempts[dream.id]) == 1 and not self.attempts[dream.id][0].passed
            if fresh and dream not in self._cohort and len(self._cohort) < trial.DREAMS:
                self._cohort.append(dream)
        untouched = [dream for dream in self.own if not self.attempts[dream.id]]
        missing = trial.DREAMS - len(self._cohort)
        if missing and untouched and self._worth(("first fails", self.behaviour.name), 0):
            return [Ask(dream=dream, index=0) for dream in untouched[:missing]]
        return [
            ask
            for dream in self._cohort
            if len(self.attempts[dream.id]) == 1
            for ask in (
                Ask(dream=dream, index=1),
                *(Ask(dream=dream, index=0, told=self.behaviour.name, placement=at) for at in PLACEMENTS),
            )
        ]

    def _end_trial(self) -> None:
        """Choose the placement by the answers of the trial."""
        self._trying = False
        answers = [self.attempts[dream.id] for dream in self._cohort]
        alone = sum(is_good(attempts[1]) for attempts in answers)
        told: dict[str, int] = {
            place: sum(is_good(a) for attempts in answers for a in attempts if a.placement == place)
            for place in PLACEMENTS
        }
        best, tried = trial.best_placement(told), len(answers) >= trial.LEAST_DREAMS
        self.placement = best if trial.lifts(len(answers), alone, told[best]) or not tried else None
        if tried:
            self.trial = PlacementTrial(
                night_id="", model="", rule=trial.rule_digest(self.behaviour), behaviour=self.behaviour.name,
                placement=self.placement, dreams=len(answers), alone=alone, told=told,
            )  # fmt: skip

    # ------------------------------------------------------------ one dream

    def _wanted(self, dreams: Sequence[Dream]) -> list[Ask]:
        """Return the next answer to each of these dreams that needs one and is worth it.

        Of what has been seen fewer than `trial.DREAMS` times, no more is asked for at once. For failures of
        a counter-behaviour's own the number is SOUGHT.
        """
        asks: list[Ask] = []
        room = {
            "first": _room(self._counts["first fails", self.behaviour.name][1]),
            "overdone": _room(self._counts["overdone", self._overdoing()][1]),
            "own failure": _room(self._counts["fails later", self._countered()][1], SOUGHT),
        }
        for dream in dreams:
            ask = self._continue(dream) if self.attempts[dream.id] else self._begin(dream)
            if ask is None:
                continue
            limit = ""
            if ask.told not in (None, dream.behaviour):
                limit = "overdone"
            elif not self.attempts[dream.id] and self._is_own(dream):
                limit = "first"
            elif ask.index and ask.told is None and not self._is_own(dream):
                limit = "own failure"
            if not limit or room[limit] > 0:
                asks.append(ask)
                room[limit] = room.get(limit, 0) - 1
        return asks

    def _begin(self, dream: Dream) -> Ask | None:
        """Return the first answer to a dream; None if its behaviour fails too rarely to make pairs."""
        worth = not self._is_own(dream) or self._worth(("first fails", dream.behaviour), 0)
        return Ask(dream=dream, index=0) if worth else None

    def _continue(self, dream: Dream) -> Ask | None:
        """Return the next answer to a dream that has been answered; None if it is done or not worth more."""
        name, attempts = dream.behaviour, self.attempts[dream.id]
        if _has_both(attempts, name):
            return None
        good = any(is_good(a) for a in attempts if not is_overdone(a, name))
        alone = [a for a in attempts if a.told is None]
        kind: Kind = ("fails later", name) if all(a.passed for a in alone) else ("passes later", name)
        if good and not self._is_own(dream) and self.placement is not None:
            # Pairs with overdone answers alone have cost a counter-behaviour some of its own situations.
            if len(alone) < self.caps.alone and self._chance(kind) >= OWN_FAILURES:
                return Ask(dream=dream, index=len(alone))
            return self._tell(dream, self.behaviour.name, self._overdoing())
        tell = kind[0] == "passes later" and self._chance(("told passes", name)) >= self._chance(kind)
        if tell and self.placement is not None:
            return self._tell(dream, name, self.placement)
        worth = len(alone) < self.caps.alone and self._worth(kind, len(alone) - 1)
        return Ask(dream=dream, index=len(alone)) if worth else None

    def _tell(self, dream: Dream, told: str, placement: Placement) -> Ask | None:
        """Return an answer with an instruction; None if it is not worth it or the dream has had enough."""
        places = [a.placement for a in self.attempts[dream.id] if a.told == told]
        kind: Kind = ("told passes", told) if told == dream.behaviour else ("overdone", placement)
        if len(places) >= self.caps.told or not self._worth(kind, len(places)):
            return None
        return Ask(dream=dream, index=places.count(placement), told=told, placement=placement)

    def _overdoing(self) -> Placement:
        """Return where the behaviour's rule is told to the next dreams of the counter-behaviour."""
        places = sorted(PLACEMENTS, key=lambda place: place != self.placement)
        often = [place for place in places if self._chance(("overdone", place)) >= OFTEN]
        return often[0] if often else max(places, key=lambda place: self._chance(("overdone", place)))

    def _countered(self) -> str:
        """Return the name of the counter-behaviour; "" if none was dreamt of."""
        return self.counter[0].behaviour if self.counter else ""

    def _is_own(self, dream: Dream) -> bool:
        return dream.behaviour == self.behaviour.name

    # ------------------------------------------------------------ the odds

    def _worth(self, kind: Kind, failures: int) -> bool:
        """Return whether one more answer is worth its cost, to a dream that has so often failed to."""
        return self._chance(kind) * STUBBORN / (STUBBORN + failures) >= 1 / MOST_ANSWERS

    def _chance(self, kind: Kind) -> float:
        """Return the mean of the Beta posterior of an answer of this kind."""
        hits, trials = self._counts[kind]
        return (1 + hits) / (2 + trials)

    def _count(self) -> None:
        """Count the answers of each kind, and those that gave their dream what it lacked for a pair."""
        self._counts = defaultdict(lambda: (0, 0))
        for dream in (*self.own, *self.counter):
            for kind, hit in self._hits(dream):
                hits, trials = self._counts[kind]
                self._counts[kind] = hits + hit, trials + 1

    def _hits(self, dream: Dream) -> Iterator[tuple[Kind, bool]]:
        """Yield the kind of each answer to a dream, and whether it gave what the dream lacked for a pair."""
        name, attempts = dream.behaviour, self.attempts[dream.id]
        alone = [a for a in attempts if a.told is None]
        for attempt in alone[:1]:
            yield ("first fails", name), not attempt.passed
        for attempt in alone[1:]:
            if alone[0].passed:
                yield ("fails later", name), not attempt.passed
            else:
                yield ("passes later", name), is_good(attempt)
        for attempt in attempts:
            if is_overdone(attempt, name):
                yield ("overdone", cast(Placement, attempt.placement)), not attempt.passed
            elif attempt.told == name and attempt.placement == self.placement:
                yield ("told passes", name), is_good(attempt)


def _room(seen: int, first: int = trial.DREAMS) -> int:
    """Return how many answers of a kind to ask for at once, given how many have been seen."""
    return first - seen if seen < first else sys.maxsize


def is_good(attempt: Attempt) -> bool:
    """Return whether an answer may be chosen: it passed, and was not cut at the limit of tokens."""
    return attempt.passed and attempt.finished


def is_overdone(attempt: Attempt, behaviour: str) -> bool:
    """Return whether an answer to a dream of `behaviour` was made with another behaviour's instruction."""
    return attempt.told not in (None, behaviour)


def _has_both(attempts: Sequence[Attempt], behaviour: str) -> bool:
    """Return whether the answers to a dream make a pair."""
    good = any(is_good(a) for a in attempts if not is_overdone(a, behaviour))
    return good and any(not a.passed for a in attempts if a.told != behaviour)
