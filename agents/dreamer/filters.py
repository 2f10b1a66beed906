"""The filters that a request must pass before it becomes a dream, and the reasons for which one is refused.

They run in the order of their cost: length and script, the behaviour's own test of the situation, requests
that are kept for measuring, near-duplicates, and last the log-probability, which needs a pass of the model.
The first filter that refuses gives the reason.

Invariant: pure. The texts of the reasons are kept in the ledger; `counts_against` reads them again.
"""

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

MAX_CHARACTERS = 400
"""Number of characters above which a request is refused, because it has lost its subject."""
FOREIGN_LETTERS = 0.1
"""Share of letters of other scripts than the seeds' above which a request is refused."""
SPREADS = 2.5
"""Half the width of the band of real requests, in standard deviations of their log-probabilities."""
LEAST_SPREAD = 0.3
"""Smallest standard deviation (nats per token) that is used; few requests give a low one by chance."""
LEAST_REQUESTS = 4
"""Smallest number of real requests that give a band."""

ENOUGH = "enough dreams"
RESERVED = "kept for measuring"
NEAR_HELD_OUT = "close to a request that is kept for measuring"
SEEN = "seen before"
OTHER_SCRIPT = "another script than the requests it grew from"
CUT_OFF = "cut off before its end"
UNLIKELY = "less likely than real requests"
TOO_LIKELY = "likelier than real requests, as repetitions are"
_NOT_ITS_FAULT = (ENOUGH, "over the cap")
"""Beginnings of the reasons that do not speak against the form in which a request was written."""


def not_a_situation(behaviour: str) -> str:
    """Return the reason for a request that does not test the behaviour."""
    return f"not a situation for {behaviour}"


def over_cap(cap: int) -> str:
    """Return the reason for a request beyond the number that one source may give."""
    return f"over the cap of {cap} from one source"


def counts_against(reason: str | None) -> bool:
    """Return whether a request with this reason (None if it is used) counts in the yield of its form."""
    return reason is None or not reason.startswith(_NOT_ITS_FAULT)


def has_length(text: str) -> bool:
    """Return whether the text is neither empty nor too long."""
    return 0 < len(text) <= MAX_CHARACTERS


def scripts(texts: Iterable[str]) -> frozenset[str]:
    """Return the names of the scripts whose letters are in the texts: LATIN, CYRILLIC, CJK, ..."""
    return frozenset(script for text in texts for letter in text if (script := _script(letter)))


def is_foreign(text: str, known: Collection[str]) -> bool:
    """Return whether too many letters of the text are of other scripts than the `known` ones."""
    letters = [script for letter in text if (script := _script(letter))]
    return sum(script not in known for script in letters) > FOREIGN_LETTERS * len(letters)


def _script(letter: str) -> str:
    """Return the script of a letter by its Unicode name; "" for a sign that is no letter."""
    return unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""


@dataclass(frozen=True, kw_only=True)
class Band:
    """The range of log-probabilities (nats per token) in which real requests lie."""

    low: float
    high: float

    def reason(self, value: float) -> str | None:
        """Return why a request with this log-probability is refused; None if it lies in the band."""
        if value < self.low:
            return UNLIKELY
        return TOO_LIKELY if value > self.high else None


def band(values: Sequence[float]) -> Band | None:
    """Return the band of these log-probabilities of real requests; None if there are too few of them."""
    if len(values) < LEAST_REQUESTS:
        return None
    middle, half = fmean(values), SPREADS * max(LEAST_SPREAD, pstdev(values))
    return Band(low=middle - half, high=middle + half)
