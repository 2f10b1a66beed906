"""What each source has taught in an update: its share of the pairs, and the words that its answers brought.

A log may prefer answers that a judge rightly passes and that carry something else along: one name, one link,
one product. Whatever it is, it shows as words which held-out answers have more often after the update.

Invariant: the figures are counted from rows and are the same each time. A word has grown if more held-out
answers of a behaviour have it after the update than before, beyond chance and by enough to matter. A source
has brought a word if the better answers in its logs have it beyond chance more often than all other chosen
answers of the update: those of other sources, and the model's own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, lgamma

from sqlalchemy import Connection, select

from corpus.text import word_set
from store import queries
from store.ledger import schema
from store.ledger.records import Measurement, PairInUpdate, Update
from store.ledger.rows import all_of

LEVEL = 0.01
"""Chance that a night without any shift names a word; it is divided by the number of words compared."""
GROWTH = 0.05
"""Smallest growth that is named, as a share of a behaviour's answers."""
MOST_WORDS = 8
"""Most words that a report names."""
MOST_SOURCES = 10
"""Most sources that a report names."""
LEAST_PAIRS = 3
"""Fewest pairs of a source with a word from which it can have brought it."""


@dataclass(frozen=True, kw_only=True)
class SourceShare:
    """One source's part in an update."""

    source: str
    """The source; "" for what grew from declared examples."""
    pairs: int
    """Number of the update's new pairs from this source."""
    share: float
    """The same as a share of all new pairs, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class GrownWord:
    """A word that held-out answers have more often after an update than before, beyond chance."""

    word: str
    behaviour: str
    """The behaviour on whose held-out scenarios it grew most."""
    before: float
    """Share of the answers before that have the word, 0 to 1."""
    after: float
    taught: dict[str, int]
    """Number of new pairs whose chosen answer has it, for the sources with most of them."""
    brought_by: list[str]
    """Sources whose logs have it far more often than all other chosen answers; [] if there is none."""


def shares(pairs: Sequence[PairInUpdate]) -> list[SourceShare]:
    """Return the sources of an update's new pairs, the largest first, at most MOST_SOURCES."""
    counted = Counter(pair.source for pair in pairs if not pair.replay)
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [
        SourceShare(source=source, pairs=count, share=round(count / counted.total(), 4))
        for source, count in ranked[:MOST_SOURCES]
    ]


def grown_words(
    connection: Connection, update: Update, weights: tuple[str, str], seed: int
) -> list[GrownWord]:
    """Return the words that grew in an update, those that a source brought first, at most MOST_WORDS.

    Args:
        connection: The ledger.
        update: The update.
        weights: Digests of the weights before and after it.
        seed: The seed of its night, to which the measurements belong.
    """
    before, after = (_heard(connection, digest, seed) for digest in weights)
    grown = _grown(before, after)
    pairs = [pair for pair in queries.pairs_of(connection, update.id) if not pair.replay] if grown else []
    words = {pair.id: word_set(pair.chosen) for pair in pairs}
    named = [
        GrownWord(
            word=word,
            behaviour=behaviour,
            before=round(rates[0], 4),
            after=round(rates[1], 4),
            taught=_taught(word, pairs, words),
            brought_by=_brought_by(word, pairs, words),
        )
        for word, (behaviour, rates) in grown.items()
    ]
    named.sort(key=lambda one: (not one.brought_by, one.before - one.after, one.word))
    return named[:MOST_WORDS]


def suspect(grown: Sequence[GrownWord]) -> str | None:
    """Return the source that brought the most of the words that grew; None if no source brought any."""
    growth: Counter[str] = Counter()
    for one in grown:
        for source in one.brought_by:
            growth[source] += round(1000 * (one.after - one.before))
    return min(growth, key=lambda source: (-growth[source], source)) if growth else None


@cache
def fisher(with_first: int, first: int, with_second: int, second: int) -> float:
    """Return Fisher's exact one-sided p-value: the chance that the word is so frequent in the first group.

    Args:
        with_first: Number of texts of the first group that have the word.
        first: Number of texts of the first group.
        with_second: As `with_first`, for the second group.
        second: As `first`, for the second group.
    """
    total, having = first + second, with_first + with_second

    def chance(count: int) -> float:
        """Return the hypergeometric probability of this count in the first group."""
        return exp(_choose(first, count) + _choose(second, having - count) - _choose(total, having))

    return min(1.0, sum(chance(k) for k in range(with_first, min(first, having) + 1) if having - k <= second))


def _choose(n: int, k: int) -> float:
    """Return the logarithm of the binomial coefficient."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


Heard = Mapping[str, tuple[int, Counter[str]]]
"""By behaviour: the number of held-out answers, and in how many of them each word is."""


def _heard(connection: Connection, weights_sha256: str, seed: int) -> Heard:
    """Return the words of these weights' held-out answers, over all rounds that have them."""
    t = schema.measurements
    query = select(t).where((t.c.weights_sha256 == weights_sha256) & (t.c.seed == seed))
    heard: dict[str, tuple[int, Counter[str]]] = {}
    for row in all_of(connection, Measurement, query.order_by(*t.primary_key.columns)):
        if row.words is not None:
            answers, words = heard.get(row.behaviour, (0, Counter()))
            heard[row.behaviour] = answers + len(row.outcomes), words + Counter(row.words)
    return heard


def _grown(before: Heard, after: Heard) -> dict[str, tuple[str, tuple[float, float]]]:
    """Return each word that grew, with the behaviour where it grew most and its shares there."""
    compared = sum(len(after[name][1]) for name in after if name in before)
    grown: dict[str, tuple[str, tuple[float, float]]] = {}
    for name in sorted(after.keys() & before.keys()):
        (first, old), (second, new) = before[name], after[name]
        for word, count in new.items():
            rates = old[word] / first, count / second
            rise = rates[1] - rates[0]
            if rise < GROWTH or fisher(count, second, old[word], first) * compared >= LEVEL:
                continue
            known = grown.get(word)
            if known is None or rise > known[1][1] - known[1][0]:
                grown[word] = name, rates
    return grown


def _taught(word: str, pairs: Sequence[PairInUpdate], words: Mapping[str, frozenset[str]]) -> dict[str, int]:
    """Return the number of chosen answers with a word, for the three sources with most of them."""
    counted = Counter(pair.source for pair in pairs if word in words[pair.id])
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:3])


def _brought_by(word: str, pairs: Sequence[PairInUpdate], words: Mapping[str, frozenset[str]]) -> list[str]:
    """Return the sources that brought a word.

    A source is compared on the behaviours that its logs teach: what these have in common, such as the words
    of a question where asking is taught, all chosen answers have, whoever they come from.
    """
    logged: dict[str, list[PairInUpdate]] = {}
    for pair in pairs:
        if pair.source and pair.chosen_from.startswith("log:"):
            logged.setdefault(pair.source, []).append(pair)
    bringing = []
    for source, own in sorted(logged.items()):
        count = sum(word in words[pair.id] for pair in own)
        taught, mine = {pair.behaviour for pair in own}, {pair.id for pair in own}
        others = [pair for pair in pairs if pair.behaviour in taught and pair.id not in mine]
        having = sum(word in words[pair.id] for pair in others)
        level = LEVEL / len(logged)
        if count >= LEAST_PAIRS and others and fisher(count, len(own), having, len(others)) < level:
            bringing.append(source)
    return bringing
