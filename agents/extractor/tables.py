"""The tables of the rules, one for each language, as `corpus/signals/*.toml` has them.

Invariant: plain data, compiled once. A row knows no behaviour and no subject of the embedded world, so the
tables serve any conversation. `docs/explanation/signals.md` says what a table contains.
"""

import re
import tomllib
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from agents.extractor.patterns import Row, row

FOLDER = Path(__file__).parents[2] / "corpus" / "signals"
COMMON = "any"
"""Name of the table that holds for every language: emoji and punctuation."""
CLASSES = (
    "wrong", "behaviour", "task", "harmless", "approval", "qualified", "constraint", "changed", "refuses",
    "no", "again", "work", "speech",
)  # fmt: skip
"""The classes of rows that a table may have."""
OF_TURNS = (
    "wrong", "behaviour", "task", "harmless", "approval", "qualified", "constraint", "changed", "no", "again",
)  # fmt: skip
"""Those that a user's turn is read by."""
SHORT_CONTEXT = 400
"""Number of characters of a text that help to recognise its language."""

IN_A_ROW = 0.5
"""Weight of a word that is part of a row, beside 1 for a frequent word, when a language is recognised."""
IN_THE_CONTEXT = 0.6
"""Weight of the request's words beside 1 for those of the turn."""
LIKELY = 0.65
"""Share of the likeliest language's count from which on another language is tried too."""

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_MARKS = re.compile("[\u0300-\u036f]")
_KANA = re.compile("[\u3041-\u30ff]")
_HAN = re.compile("[\u3400-\u9fff]")
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_SPECIAL = str.maketrans(
    {"\u00df": "ss", "\u0153": "oe", "\u00e6": "ae", "\u00f8": "o"}
    | dict.fromkeys("\u2019\u2018\u02bc\u0060\u00b4", "'")
)
_DRAWN_OUT = re.compile(r"([a-z])\1{2,}")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufe0f\ufeff\u00ad\U0001f3fb-\U0001f3ff]")


@dataclass(frozen=True, kw_only=True)
class Language:
    """The table of one language."""

    code: str
    stopwords: frozenset[str]
    """Frequent words by which the language is recognised."""
    fillers: frozenset[str]
    """Words that say nothing about whether two requests are the same."""
    numbers: Mapping[str, str]
    """The words for small numbers, each with its digits."""
    lead: re.Pattern[str]
    """Words that people say before they come to the point; anchored rows match before and after them."""
    source: Mapping[str, Any]
    """The table as its file has it."""

    @cached_property
    def rows(self) -> Mapping[str, tuple[Row, ...]]:
        """The rows by class, made when the language is first used."""
        whole, short = bool(self.source.get("whole_words")), _short(self.source)
        return {
            name: tuple(
                row(_written_out(source, short), float(weight), whole_words=whole)
                for weight, source in (
                    line.split(maxsplit=1) for line in self.source[name].splitlines() if line
                )
            )
            for name in CLASSES
            if name in self.source
        }

    @cached_property
    def _index(self) -> tuple[Mapping[str, list[tuple[str, int]]], list[tuple[str, Row]], list[int]]:
        """The needles of the rows by their first letters, the rows of OF_TURNS, and those always tried.

        A needle has the place of its row beside it.
        """
        rows = [(name, one) for name in OF_TURNS for one in self.rows.get(name, ())]
        by_letters, always = defaultdict[str, list[tuple[str, int]]](list), list[int]()
        for at, (_, one) in enumerate(rows):
            if min(map(len, one.needles), default=0) < self._letters:
                always.append(at)
                continue
            for needle in one.needles:
                by_letters[needle[: self._letters]].append((needle, at))
        return by_letters, rows, always

    @cached_property
    def _letters(self) -> int:
        """Number of letters by which the index is kept: words are shorter in scripts without spaces."""
        return 3 if self.stopwords else 2

    def read(self, text: str) -> dict[str, list[tuple[re.Match[str], float]]]:
        """Return the matches of the rows that are about users' turns, with their weights, by class.

        Each row counts once, however often it matches. Most rows are never tried: one pass over the text
        collects its groups of letters, and an index gives the rows that these may match.
        """
        by_letters, rows, always = self._index
        groups = {text[at : at + self._letters] for at in range(len(text) - self._letters + 1)}
        hits = (hit for letters in groups & by_letters.keys() for hit in by_letters[letters])
        places = {place for needle, place in hits if needle in text}
        starts, found = self._starts(text), dict[str, list[tuple[re.Match[str], float]]]()
        for place in sorted(places.union(always)):
            name, one = rows[place]
            if match := one.tried(text, starts):
                found.setdefault(name, []).append((match, one.weight))
        return found

    def score(self, name: str, text: str) -> float:
        """Return the sum of the weights of the rows of a class that match a text."""
        starts = self._starts(text)
        return sum(one.weight for one in self.rows.get(name, ()) if one.find(text, starts))

    def _starts(self, text: str) -> tuple[int, ...]:
        """Return the places at which an anchored row may match: before and after the first words."""
        lead = self.lead.match(text)
        return (0, lead.end()) if lead and lead.end() else (0,)


def form(text: str) -> str:
    """Return a text in the form that the tables match: lower case, single spaces, without accents.

    Straight quotes replace curly ones. Invisible characters and the skin tones of emoji are left out, and
    letters that are drawn out ("sooo") are written once.
    """
    words = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).lower()
    if not words.isascii():
        words = _INVISIBLE.sub("", words).translate(_SPECIAL)
        words = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", words)))
    return " ".join(_DRAWN_OUT.sub(r"\1", words).split())


@cache
def tables() -> Mapping[str, Language]:
    """Return all tables by the code of their language."""
    return {path.stem: _load(path) for path in sorted(FOLDER.glob("*.toml"))}


@cache
def anywhere(name: str) -> str:
    """Return one expression whose alternatives are all languages' expressions of this name.

    name: `greeting` and `salutation` (the beginning of a letter), `farewell` (its end), or `states` (before a
        name or a number).
    """
    return "|".join(str(table.source[name]) for table in tables().values() if name in table.source)


@cache
def _codes_by_word() -> Mapping[str, Mapping[str, float]]:
    """Return, for each word that a table has, how strongly it speaks for which language."""
    by_word = defaultdict[str, dict[str, float]](dict)
    for code, table in tables().items():
        of_rows = _WORD.findall(
            _written_out(" ".join(str(table.source.get(name, "")) for name in CLASSES), {})
        )
        for words, share in ((of_rows, IN_A_ROW), (table.stopwords, 1.0)):
            for word in words:
                if code != COMMON and (share == 1.0 or len(word) > 2):
                    by_word[word][code] = share
    return by_word


def recognised(text: str, context: str = "") -> tuple[Language, ...]:
    """Return the tables of the languages that a turn may be in, the likeliest first.

    Args:
        text: The turn, in the form of `form`.
        context: What was said before it, in the same form: a short turn shows no language.
    """
    known = tables()
    if code := _by_script(text, context):
        return (known[code],)
    counts = defaultdict[str, float](float)
    for words, share in ((text, 1.0), (context, IN_THE_CONTEXT)):
        for word in set(_WORD.findall(words[:SHORT_CONTEXT])):
            for code, weight in _codes_by_word().get(word, {}).items():
                counts[code] += share * weight
    if not counts:
        return tuple(known[code] for code in known if code not in (COMMON, "ja", "ru", "zh"))
    most = max(counts.values())
    likely = sorted((c for c in counts if counts[c] >= LIKELY * most), key=lambda c: (-counts[c], c))
    return tuple(known[code] for code in likely)


def _by_script(text: str, context: str) -> str:
    """Return the code of the language that the script of a turn shows; "" for a Latin one."""
    if _KANA.search(text):
        return "ja"
    if _HAN.search(text):
        return "ja" if _KANA.search(context) else "zh"
    return "ru" if _CYRILLIC.search(text) else ""


def _load(path: Path) -> Language:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    lead = data.get("lead", "")
    return Language(
        code=path.stem,
        stopwords=frozenset(form(data.get("stopwords", "")).split()),
        fillers=frozenset(form(data.get("fillers", "")).split()),
        numbers={word: str(at) for at, word in enumerate(form(data.get("numbers", "")).split(), 1)},
        lead=re.compile(rf"(?:(?:{_written_out(lead, {})})[,.!: \u3001\u3002-]+)*" if lead else ""),
        source=data,
    )


def _short(source: Mapping[str, Any]) -> dict[str, str]:
    """Return the abbreviations of a table, each with the group that it stands for."""
    return {f"<{name}>": f"(?:{value})" for name, value in source.get("short", {}).items()}


def _written_out(source: str, short: Mapping[str, str]) -> str:
    """Return an expression with the table's abbreviations written out, without accents.

    ` ~ ` stands for up to three words between two others.
    """
    for name, value in short.items():
        source = source.replace(name, value)
    source = source.replace(" ~ ", r"(?: [\w'-]+,?){0,3} ")
    marks = unicodedata.normalize("NFD", source.translate(_SPECIAL))
    return unicodedata.normalize("NFC", _MARKS.sub("", marks)).strip()
