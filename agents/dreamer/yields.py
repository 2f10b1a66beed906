"""Which form of prompt a model writes requests in: decided by how many of its requests could be used so far.

Invariant: pure. The counts come from the dreams in the ledger, so a later night of the same model knows what
earlier nights found, and the same ledger gives the same choice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

TRIAL = 8
"""Number of requests for which a form is tried before it is compared with others."""
DISCOUNT = 0.5
"""Factor on the counts of each earlier night: the weights have changed since, and so may the yield."""
CERTAIN = 4.0
"""Number of requests as which the yield for all behaviours counts in the estimate for one of them."""
FALLEN = 0.5
"""Share of its earlier yield below which the form in use is compared with the others again."""
LEAST_YIELD = 0.2
"""Smallest yield that is reckoned with, so that a low estimate does not make us ask for too many."""
FIRST_YIELD = 0.75
"""The yield that is reckoned with before anything was counted."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The requests that were written in one form for one behaviour in one night, refused ones included."""

    night: int
    """Number of the night."""
    behaviour: str
    form: str
    written: int
    """Requests that were checked; those that nobody needed any more do not count."""
    used: int
    """Requests that became dreams."""


@dataclass(frozen=True, kw_only=True)
class Yields:
    """The counts of all nights so far."""

    counts: tuple[Counted, ...] = ()

    def plus(self, more: Iterable[Counted]) -> "Yields":
        """Return the yields with more counts."""
        return Yields(counts=(*self.counts, *more))

    def tried(self, form: str, behaviour: str | None = None, night: int | None = None) -> int:
        """Return how many requests were written in this form; None stands for all behaviours or nights."""
        return sum(
            one.written
            for one in self.counts
            if one.form == form and behaviour in (None, one.behaviour) and night in (None, one.night)
        )

    def rate(self, form: str, behaviour: str) -> float:
        """Return the estimated share of requests in this form that can be used for this behaviour."""
        written, used = self._sums(form, None, None)
        overall = (FIRST_YIELD + used) / (1 + written)
        own_written, own_used = self._sums(form, behaviour, None)
        return (CERTAIN * overall + own_used) / (CERTAIN + own_written)

    def best(self, forms: Sequence[str], behaviour: str) -> str:
        """Return the form with the highest yield for this behaviour; the first of equals."""
        return max(forms, key=lambda form: (self.rate(form, behaviour), -forms.index(form)))

    def trials(self, forms: Sequence[str], behaviour: str, night: int) -> dict[str, int]:
        """Return how many requests each form is to write for a comparison; {} if the best form is known.

        All forms are compared when a model is new, and again for a behaviour when the yield of the best form
        has fallen since earlier nights.
        """
        if untried := {form: TRIAL - self.tried(form) for form in forms if self.tried(form) < TRIAL}:
            return untried
        best = self.best(forms, behaviour)
        if not self._has_fallen(best, behaviour, night):
            return {}
        return {form: TRIAL for form in forms if self.tried(form, behaviour, night) < TRIAL}

    def _has_fallen(self, form: str, behaviour: str, night: int) -> bool:
        """Return whether this night's yield of the form is far below that of earlier nights."""
        now_written, now_used = self._sums(form, behaviour, night)
        before = Yields(counts=tuple(one for one in self.counts if one.night < night))
        then_written, then_used = before._sums(form, behaviour, None)
        if now_written < TRIAL or then_written == 0:
            return False
        return now_used / now_written < FALLEN * then_used / then_written

    def _sums(self, form: str, behaviour: str | None, night: int | None) -> tuple[float, float]:
        """Return how many requests were written in this form and how many were used, both discounted."""
        newest = max((one.night for one in self.counts), default=0)
        written = used = 0.0
        for one in self.counts:
            if one.form == form and behaviour in (None, one.behaviour) and night in (None, one.night):
                weight = DISCOUNT ** (newest - one.night)
                written, used = written + weight * one.written, used + weight * one.used
        return written, used


def to_ask(missing: int, rate: float) -> int:
    """Return how many requests to have written so that about `missing` of them can be used."""
    return ceil(missing / max(LEAST_YIELD, min(1.0, rate)))
