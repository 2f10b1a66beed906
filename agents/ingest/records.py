"""The records of an open log, and the conversations in them.

Invariant: every reader of logs gets its records from `records` and its conversations from `Parser`, so an
ingest, a preview and a `forget` see the same conversations. This module knows nothing about the ledger.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from agents.ingest.sources import OpenLog
from corpus.conversation import Conversation, Score, Turn
from corpus.errors import LogRefused
from corpus.formats.detect import Record, detect, named, own_parts, reader, unwrapped, value_of
from corpus.formats.feedback import Scale, scale_of
from corpus.formats.format import Format, Located, Part
from corpus.formats.texts import is_text, text_records
from corpus.lines import CHUNK, LATIN1, UTF8, BadLine, Item, RawLine, in_lines, values_in, whole_lines


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """What was read from one record, or from a whole file."""

    record: Record | None
    """The record; None for a conversation that was joined from several."""
    parts: tuple[Part, ...]


def records(log: OpenLog, *, offset: int = 0, number: int = 0, last: bool = True) -> Iterator[Record]:
    """Yield the records of a log: its lines, or the values in it if these are not on a line each.

    Args:
        log: The log.
        offset: Offset of the line where reading starts.
        number: Number of the line before it.
        last: Whether a last line without a line end counts.
    """
    stream = log.again()
    if is_text(log.head):
        lines = whole_lines(stream, until=log.size if log.plain else None, last=True)
        yield from text_records(lines, log.encoding)
    elif in_lines(log.head):
        until = log.size if log.plain else None
        yield from whole_lines(
            stream, until=until, offset=offset, number=number, ending=log.ending, last=last
        )
    else:
        encoding = LATIN1 if log.encoding == LATIN1 else "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        chunks = iter(lambda: stream.read(CHUNK), b"")
        yield from values_in(text for chunk in chunks if (text := decoder.decode(chunk)))


def format_of(log: OpenLog) -> str | None:
    """Return the name of the format of a log's first records; None if no record shows a format yet.

    Records of an unknown format, and binary data, raise `LogRefused`.
    """
    found = detect(_first_values(log))
    if isinstance(found, BadLine):
        where = f"line {found.line}: {found.reason}"
        if found.reason.startswith("not JSON at character 1:"):
            where += ". A log is JSON: one object a line, one array, or one object"
        packed = f"{log.compression}-compressed; " if log.compression else ""
        raise LogRefused(
            f"{packed}its first lines are in no known format (docs/reference/logs.md lists them); {where}"
        )
    if found is None and b"\0" in log.head:
        raise LogRefused("binary data (a NUL byte), not a log")
    return found


def _first_values(log: OpenLog) -> Iterator[Record]:
    """Yield the records that decide the format, with what an object only wraps unwrapped."""
    for record in records(log):
        if isinstance(record, RawLine) and record.blank:
            continue
        value = _value(log, record)
        if isinstance(value, BadLine):
            yield value
        else:
            line = record.number if not isinstance(record, BadLine) else 0
            for number, inner in enumerate(unwrapped(value)):
                yield Item(number=line or number, value=inner)


def _value(log: OpenLog, record: Record) -> Any:
    """Return the value of a record, or a BadLine.

    The first line that is no UTF-8 decides for Latin-1 if all before it in the head of the file is ASCII.
    """
    value = value_of(record, LATIN1 if log.encoding == LATIN1 else UTF8)  # other texts come as UTF-8
    if isinstance(value, BadLine) and value.reason.startswith("not UTF-8") and log.head.isascii():
        again = value_of(record, LATIN1)
        if not isinstance(again, BadLine):
            log.encoding = LATIN1
            return again
    return value


@dataclass(kw_only=True)
class Parser:
    """Turns the records of a log into conversations."""

    log: OpenLog
    format: Format
    sure: bool = False
    """Whether every record has this format; if not, records of other formats are read as such."""
    scale: Scale | None = None
    """The scale of the ratings that the user gave; None to find it from all numbers of the file."""
    _scales: dict[str, Scale | None] | None = None
    _named: set[str] | None = None

    def parse(self, record: Record) -> tuple[Part, ...]:
        """Return the conversations and the faults in one record, with their ratings on one scale."""
        return tuple(part for raw in self._raw(record) for part in self._scaled(raw))

    def whole(self, last: bool = True) -> Iterator[Numbered]:
        """Yield what all records of the log give, joined if the format needs that."""
        for parts in self._whole(last):
            yield replace(parts, parts=tuple(part for raw in parts.parts for part in self._scaled(raw)))

    def _whole(self, last: bool) -> Iterator[Numbered]:
        if self.format.join is None:
            for record in records(self.log, last=last):
                yield Numbered(record=record, parts=self._raw(record))
            return
        faults: list[BadLine] = []
        for part in self.format.join(self._values(faults, last)):
            yield Numbered(record=None, parts=(part,))
        for fault in faults:
            yield Numbered(record=fault, parts=(fault,))

    def _values(self, faults: list[BadLine], last: bool) -> Iterator[Located]:
        """Yield the values of all records with their lines; what cannot be decoded goes to `faults`."""
        for record in records(self.log, last=last):
            if isinstance(record, RawLine) and record.blank:
                continue
            value = _value(self.log, record)
            if isinstance(value, BadLine):
                faults.append(value)
            elif not isinstance(record, BadLine):
                for inner in unwrapped(value):
                    yield record.number, inner

    def _raw(self, record: Record) -> tuple[Part, ...]:
        """Return what one record gives, with scores that are no ratings yet."""
        if isinstance(record, RawLine) and record.blank:
            return ()
        value = _value(self.log, record)
        if isinstance(value, BadLine):
            return (value,)
        assert not isinstance(record, BadLine)
        if self.format.recognises(value):  # most records: no other reader is asked
            return own_parts(self.format, value, record.number)
        read = reader(self.format.name, sure=self.sure)
        return tuple(part for inner in unwrapped(value) for part in read(inner, record.number))

    def _scaled(self, part: Part) -> Iterator[Part]:
        """Yield a conversation with ratings in place of scores, then a fault for each kind without one."""
        if isinstance(part, BadLine) or all(turn.score is None for turn in part.turns):
            yield part
            return
        if self._scales is None:
            self._scales, self._named = self._found_scales(), set()
        turns, faults = [], []
        for turn in part.turns:
            rated, fault = _rated(
                turn, self.scale or self._scales.get(turn.score.field if turn.score else "")
            )
            turns.append(rated)
            if fault and turn.score and (about := _about(turn.score)) not in (self._named or set()):
                assert self._named is not None
                self._named.add(about)
                faults.append(BadLine(line=turn.line, reason=fault))
        yield replace(part, turns=tuple(turns))
        yield from faults

    def _found_scales(self) -> dict[str, Scale | None]:
        """Return the scale of each field that rates, from all numbers in the file."""
        numbers: dict[str, set[float]] = {}
        if self.scale is None:
            for read in self._whole(last=True):
                for part in read.parts:
                    for turn in part.turns if isinstance(part, Conversation) else ():
                        if turn.score and isinstance(turn.score.value, float):
                            numbers.setdefault(turn.score.field, set()).add(turn.score.value)
        return {field: scale_of(values) for field, values in numbers.items()}


def _rated(turn: Turn, scale: Scale | None) -> tuple[Turn, str]:
    """Return a turn with its score as a rating, and why there is none if there is none."""
    score = turn.score
    if score is None:
        return turn, ""
    turn = replace(turn, score=None)
    if isinstance(score.value, str):
        return turn, f"{score.field} {_quoted(score.value)} is no known rating: the answer stays without one"
    if scale is None:
        scales = "--ratings 1..5, --ratings 0..1 or --ratings -1..1"
        return turn, f"{score.field} {score.value:g}: all its numbers do not show the scale: give {scales}"
    rating = scale.rating(score.value)
    if rating is None:
        return turn, f"{score.field} {score.value:g} is not on the scale {scale.low:g} to {scale.high:g}"
    return replace(turn, rating=rating), ""


def _about(score: Score) -> str:
    return f"{score.field}:{score.value}" if isinstance(score.value, str) else score.field


def _quoted(text: str) -> str:
    """Return a text in quotes, if it is a single short word; a longer one may hold a secret."""
    return f'"{text}"' if text.isidentifier() and len(text) <= 20 else "with a text"


def detected(log: OpenLog, asked: str | None, before: str = "") -> Format | None:
    """Return the format of a log; None if no record shows one yet.

    Args:
        log: The log.
        asked: Name of the format that the user gave; None to detect it.
        before: Name of the format that an earlier reading detected; "" without one.
    """
    name = asked or before or format_of(log)
    return named(name) if name else None
