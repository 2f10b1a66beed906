"""Patterns over a turn's words that cost next to nothing where they cannot match.

A row is a regular expression with a weight. Most rows of a table match no part of a given turn, and a search
by the expression costs far more than a search for a plain string. So each row has needles: strings of which
every match contains at least one. They are derived from the expression when the table is loaded.

Invariant: pure; the needles never hide a match.
"""

import re
from dataclasses import dataclass
from functools import cached_property

SHORTEST_NEEDLE = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pattern of a table, with what a match adds to a score."""

    weight: float
    source: str
    """The expression, without the anchor."""
    anchored: bool
    """Whether the pattern matches only at the beginning of a turn."""
    needles: tuple[str, ...]
    """A match contains at least one of these; () if that is not known."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The expression, compiled only when a text first contains one of the needles."""
        return re.compile(self.source)

    def find(self, text: str, starts: tuple[int, ...]) -> re.Match[str] | None:
        """Return the first match in a text.

        Args:
            text: The text in the form of `tables.Language.form`.
            starts: The places that count as the beginning of the turn, for an anchored row.
        """
        if self.needles and not any(map(text.__contains__, self.needles)):
            return None
        return self.tried(text, starts)

    def tried(self, text: str, starts: tuple[int, ...]) -> re.Match[str] | None:
        """Return the first match in a text that is known to contain a needle: see `find`."""
        if not self.anchored:
            return self.pattern.search(text)
        for at in starts:
            if match := self.pattern.match(text, at):
                return match
        return None


def row(source: str, weight: float, *, whole_words: bool) -> Row:
    """Return the row of an expression.

    Args:
        source: The expression. A leading `^` anchors it to the beginning of a turn.
        weight: What a match adds to a score.
        whole_words: Whether a match may not begin or end inside a word.
    """
    anchored = source.startswith("^")
    body = source.removeprefix("^")
    if whole_words:
        before = "" if anchored else r"(?:(?<!\w)|(?=\W))"
        body = rf"{before}(?:{body})(?:(?!\w)|(?<=\W))"
    return Row(weight=weight, source=body, anchored=anchored, needles=needles(body) or ())


def needles(source: str) -> tuple[str, ...] | None:
    """Return strings of which every match of an expression contains at least one; None if none is known."""
    found = list[str]()
    for branch in _branches(source):
        best = _best(branch)
        if best is None:
            return None
        found += best
    return tuple(dict.fromkeys(found))


def _best(branch: str) -> tuple[str, ...] | None:
    """Return the needles of one alternative: of its parts that must match, those that are longest."""
    options, run, at = list[tuple[str, ...]](), "", 0
    while at < len(branch):
        atom, after, optional = _atom(branch, at)
        literal = _literal(atom)
        if literal and not optional:
            run += literal
        else:
            options, run = [*options, (run,)], ""
            inner = _group(atom)
            if inner and not optional and (of_group := needles(inner)):
                options.append(of_group)
        at = after
    options.append((run,))
    best = max(options, key=lambda strings: min(map(_width, strings)))
    return best if min(map(_width, best)) >= SHORTEST_NEEDLE else None


def _atom(source: str, at: int) -> tuple[str, int, bool]:
    """Return the atom at a place, the place after its quantifier, and whether it may match nothing.

    An atom with any quantifier counts as one that may match nothing, except for `+`.
    """
    end = _end(source, at)
    atom, optional = source[at:end], False
    if end < len(source) and source[end] in "?*+{":
        optional = source[end] != "+" or len(atom) == 1  # "no+" also matches "noo": end the run there
        end = source.index("}", end) + 1 if source[end] == "{" else end + 1
        if end < len(source) and source[end] == "?":
            end += 1
    return atom, end, optional


def _end(source: str, at: int) -> int:
    """Return the place after the atom at a place, without its quantifier."""
    if source[at] == "\\":
        return at + 2
    if source[at] == "[":
        return source.index("]", at + 2) + 1
    if source[at] != "(":
        return at + 1
    depth, place = 0, at
    while True:
        if source[place] == "\\":
            place += 1
        elif source[place] == "[":
            place = source.index("]", place + 2)
        else:
            depth += {"(": 1, ")": -1}.get(source[place], 0)
            if not depth:
                return place + 1
        place += 1


def _literal(atom: str) -> str:
    """Return the character that an atom stands for; "" for a class, a group, an anchor or a boundary."""
    if len(atom) == 2 and atom[0] == "\\" and not atom[1].isalnum():
        return atom[1]
    return atom if len(atom) == 1 and atom not in ".^$" else ""


def _group(atom: str) -> str:
    """Return the inside of a group that takes part in the match; "" for anything else."""
    return atom[3:-1] if atom.startswith("(?:") else ""


def _branches(source: str) -> list[str]:
    """Return the alternatives of an expression at its top level."""
    branches, begun, at = list[str](), 0, 0
    while at < len(source):
        if source[at] == "|":
            branches.append(source[begun:at])
            begun = at + 1
        at = _end(source, at)
    return [*branches, source[begun:]]


def _width(needle: str) -> int:
    """Return how rare a needle is: the number of its characters, each that is not ASCII twice."""
    return len(needle) + sum(not letter.isascii() for letter in needle)
