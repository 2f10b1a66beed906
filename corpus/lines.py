"""From a file's bytes to whole lines, or to a stream of JSON values; what is unreadable is a BadLine.

Invariant: no content of a file raises an exception. `whole_lines` keeps at most one line and one chunk in
memory, and `values_in` at most one value and one chunk. The reason of a BadLine never quotes the line, which
may hold a secret. NaN and infinities, which some programs write although JSON has none, are read as null.
This module knows nothing about log formats or the ledger.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_LINE = 16 * 2**20
"""Most bytes in one line. A whole agent session with pasted files fits; decoded it takes under 0.3 GB."""

MAX_VALUE = 64 * 2**20
"""Most characters in one item of an array, or in one object that is spread over several lines."""

MAX_VALUES = 500_000
"""Most values in one line. A decoded object takes some 200 bytes; "{}," takes only three in the file."""

CHUNK = 2**18
"""Number of bytes that are read at a time."""

BOM = b"\xef\xbb\xbf"

UTF8, LATIN1 = "utf-8", "windows-1252"
"""The encodings of a line. Latin-1 is read as its superset Windows-1252, as browsers do."""

# Possessive quantifiers: the search is linear, whatever the input.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n\ufeff]*")
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


@dataclass(frozen=True, kw_only=True)
class RawLine:
    """One line, as it is in the file."""

    number: int
    """Number of the line from 1."""
    data: bytes | None
    """Bytes of the line without the line end; None for a line over the limit."""
    end: int
    """Offset in the file just after the line end."""
    ended: bool = True
    """Whether the line has its line end; the last line of a file may lack it."""

    @property
    def blank(self) -> bool:
        """Whether the line is empty or white space."""
        return self.data is not None and not self.data.strip()


@dataclass(frozen=True, kw_only=True)
class Item:
    """One JSON value of a file that does not have one value on each line."""

    number: int
    """Number of the value in the file, from 1."""
    value: Any


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line from which no conversation can be read, or a part of it that could not be understood."""

    line: int
    """The line's number from 1; 0 for the file as a whole."""
    reason: str
    """The fault, without any of the line's text."""


def whole_lines(
    stream: BinaryIO,
    *,
    until: int | None = None,
    offset: int = 0,
    number: int = 0,
    limit: int = MAX_LINE,
    ending: bytes = b"\n",
    last: bool = False,
) -> Iterator[RawLine]:
    """Yield the whole lines between two offsets of a file.

    Args:
        stream: The file.
        until: Offset where reading stops; None for the end of the file.
        offset: Offset where reading starts, which is the beginning of a line.
        number: Number of the line before `offset`; 0 at the beginning of the file.
        limit: Most bytes in a line; a longer line has no data.
        ending: The line end: a newline, or a carriage return in files of old programs.
        last: Whether to yield what is behind the last line end too, as a line that has not ended.
    """
    if offset:  # a compressed stream can only be read from its beginning
        stream.seek(offset)
    at = offset
    parts: list[bytes] = []
    size = 0
    while until is None or at < until:
        chunk = stream.read(CHUNK if until is None else min(CHUNK, until - at))
        if not chunk:
            break
        at += len(chunk)
        *ended, rest = chunk.split(ending)
        for piece in ended:
            size += len(piece)
            number, offset = number + 1, offset + size + 1
            data = None if size > limit else b"".join([*parts, piece]) if parts else piece
            yield RawLine(number=number, data=data, end=offset)
            parts, size = [], 0
        size += len(rest)
        parts = [] if size > limit else [*parts, rest]
    if last and size:
        data = None if size > limit else b"".join(parts)
        yield RawLine(number=number + 1, data=data, end=offset + size, ended=False)


def in_lines(head: bytes) -> bool:
    """Return whether a file has one JSON value on each line, and is no array or pretty-printed object.

    Args:
        head: The first bytes of the file, in UTF-8.
    """
    text = head.removeprefix(BOM).lstrip()
    if text[:1] == b"[":
        return text[1:].lstrip()[:1] not in (b"{", b"]", b"[", b"")
    first, newline, rest = text.partition(b"\n")
    following = rest.lstrip()[:1]
    if text[:1] != b"{" or not newline or following in (b"", b"{"):
        return True
    return not isinstance(decode(RawLine(number=2, data=first, end=0)), BadLine)


def values_in(chunks: Iterable[str], *, limit: int = MAX_VALUE) -> Iterator[Item | BadLine]:
    """Yield the items of a JSON array, or JSON values that follow each other, as their text arrives.

    If the text breaks off or is no JSON, a BadLine is yielded last.

    Args:
        chunks: The text of the file, in pieces of any size.
        limit: Most characters in one value.
    """
    text = _Text(iter(chunks), limit)
    number = 0
    array = text.next_mark() == "["
    if array:
        text.at += 1
    while (mark := text.next_mark()) not in (("]", "") if array else ("",)):
        number += 1
        value = text.next_value(number)
        if isinstance(value, BadLine):
            yield value
            return
        yield Item(number=number, value=value)
        if array and text.next_mark() == ",":
            text.at += 1
    if array and mark == "":
        yield BadLine(line=number + 1, reason="the JSON array never ends: cut off, or still being written")
    elif array:
        text.at += 1
        if text.next_mark():
            yield BadLine(line=number + 1, reason="there is more after the end of the JSON array")


class _Text:
    """Text that arrives in pieces, of which only the part that is not parsed yet is kept."""

    def __init__(self, chunks: Iterator[str], limit: int) -> None:
        self._chunks, self._limit = chunks, limit
        self.text = ""
        self.at = 0

    def _more(self) -> bool:
        """Append at least as much text as there is; return whether there was any."""
        pieces, size, wanted = [self.text[self.at :]], 0, max(CHUNK, len(self.text) - self.at)
        while size < wanted and (piece := next(self._chunks, "")):
            pieces.append(piece)
            size += len(piece)
        self.text, self.at = "".join(pieces), 0
        return size > 0

    def next_mark(self) -> str:
        """Move to the next character that is no space and return it; "" at the end."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def next_value(self, number: int) -> Any:
        """Parse the value that begins here and move behind it; return a BadLine if there is none."""
        while True:
            size = len(self.text) - self.at
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or not self._more():
                    self.at = min(end, len(self.text))
                    return value
                continue  # a number may go on in the next piece
            except json.JSONDecodeError as error:
                open_end = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - 32
                if open_end and size < self._limit and self._more():
                    continue
                reason = f"not JSON at character {error.pos - self.at + 1}: {error.msg}"
                if error.msg.startswith("Unterminated") or error.pos >= len(self.text):
                    reason = "cut off, or still being written"
                if size >= self._limit:
                    most = f"longer than {self._limit // 2**20} MiB"
                    reason = f"{most}: write one object a line (jq -c '.[]' FILE)"
            except RecursionError:
                reason = "nested too deep"
            except ValueError as error:  # Python's limit on the digits of a number
                reason = str(error)
            return BadLine(line=number, reason=f"value {number}: {reason}")


def decode(raw: RawLine, *, limit: int = MAX_LINE, encoding: str = UTF8) -> Any:
    """Return the JSON value on a line, or a BadLine with the reason why it cannot be read."""
    if raw.data is None:
        return BadLine(line=raw.number, reason=f"longer than {limit / 2**20:g} MiB")
    data = raw.data.removeprefix(BOM) if raw.number == 1 else raw.data
    if reason := _unfit(data):
        return BadLine(line=raw.number, reason=reason)
    try:
        return _DECODER.decode(data.decode(encoding))
    except UnicodeDecodeError as error:
        return BadLine(line=raw.number, reason=f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        cut = "" if raw.ended else " (the last line: cut off, or still being written)"
        return BadLine(line=raw.number, reason=f"not JSON at character {error.pos + 1}: {error.msg}{cut}")
    except RecursionError:
        return BadLine(line=raw.number, reason="nested too deep")
    except ValueError as error:  # Python's limit on the digits of a number
        return BadLine(line=raw.number, reason=str(error))


def _unfit(data: bytes) -> str:
    """Return why these bytes must not be parsed; "" if they may be."""
    if b"\0" in data:
        return "binary data (a NUL byte)"
    if data.count(b"[") + data.count(b"{") + data.count(b",") <= MAX_VALUES:
        return ""  # the limit cannot be exceeded: no scan is needed
    values = 0
    for token in _TOKEN.finditer(data):
        values += token.group()[:1] in b"[{,"
        if values > MAX_VALUES:
            return f"more than {MAX_VALUES:,} values"
    return ""
