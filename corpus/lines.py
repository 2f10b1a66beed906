"""The steps from a file's bytes to whole lines to JSON values; anything unreadable becomes a BadLine.

Invariant: no content of a file raises an exception. `whole_lines` keeps at most one line and one chunk in
memory, and yields a line only after its newline has arrived. The reason of a BadLine never quotes the line,
which may hold a secret. This module knows nothing about log formats or the ledger.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_LINE = 16 * 2**20
"""Most bytes in one line. A whole agent session with pasted files fits; decoded it takes under 0.3 GB."""

MAX_DEPTH = 200
"""Most levels of nested brackets. Python's parser fails near 1,000; real logs stay under 20."""

MAX_VALUES = 500_000
"""Most values in one line. A decoded object takes some 200 bytes; "{}," takes only three in the file."""

MAX_ARRAY = 64 * 2**20
"""Most bytes in a file that is one JSON array; unlike lines, an array is in memory as a whole."""

CHUNK = 2**18
"""Number of bytes that are read at a time."""

BOM = b"\xef\xbb\xbf"

# Possessive quantifiers: the search is linear, whatever the input.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_ARRAY_HEAD = re.compile(rb"\s*\[\s*(?:[{\]]|\Z)")


@dataclass(frozen=True, kw_only=True)
class RawLine:
    """One whole line, as it is in the file."""

    number: int
    """Number of the line from 1; in a file that is one JSON array, number of the item."""
    data: bytes | None
    """Bytes of the line without the newline; None for a line over the limit."""
    end: int
    """Offset in the file just after the line's newline."""

    @property
    def blank(self) -> bool:
        """Whether the line is empty or white space."""
        return self.data is not None and not self.data.strip()


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line from which no conversation can be read."""

    line: int
    """The line's number from 1; 0 for the file as a whole."""
    reason: str
    """The fault, without any of the line's text."""


def whole_lines(
    stream: BinaryIO, *, until: int, offset: int = 0, number: int = 0, limit: int = MAX_LINE
) -> Iterator[RawLine]:
    """Yield the whole lines between two offsets of a file.

    Args:
        stream: The file.
        until: Offset where reading stops; a line whose newline is not before it is left out.
        offset: Offset where reading starts, which is the beginning of a line.
        number: Number of the line before `offset`; 0 at the beginning of the file.
        limit: Most bytes in a line; a longer line has no data.
    """
    stream.seek(offset)
    at = offset
    parts: list[bytes] = []
    size = 0
    while at < until and (chunk := stream.read(min(CHUNK, until - at))):
        at += len(chunk)
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            size += len(piece)
            number, offset = number + 1, offset + size + 1
            data = None if size > limit else b"".join([*parts, piece])
            yield RawLine(number=number, data=data, end=offset)
            parts, size = [], 0
        size += len(rest)
        parts = [] if size > limit else [*parts, rest]


def is_array(head: bytes) -> bool:
    """Return whether a file is one JSON array, and does not have one record on each line.

    Args:
        head: The first bytes of the file.
    """
    return _ARRAY_HEAD.match(head.removeprefix(BOM)) is not None


def array_items(data: bytes, *, limit: int = MAX_LINE) -> Iterator[RawLine | BadLine]:
    """Yield the items of a file that is one JSON array; if the array is not whole, yield a BadLine last.

    Args:
        data: The bytes of the file.
        limit: Most bytes in an item; a longer item has no data.
    """
    begin = data.find(b"[") + 1
    depth, number = 1, 0
    for token in _TOKEN.finditer(data, begin):
        mark = token.group()[:1]
        depth += (mark in b"[{") - (mark in b"]}")
        if depth == 0 or (depth == 1 and mark == b","):
            number += 1
            item = None if token.start() - begin > limit else data[begin : token.start()]
            yield RawLine(number=number, data=item, end=token.end())
            begin = token.end()
        if depth == 0:
            if data[begin:].strip():
                yield BadLine(line=number + 1, reason="there is more after the end of the JSON array")
            return
    yield BadLine(line=number + 1, reason="the JSON array never ends: cut off, or still being written")


def decode(raw: RawLine, *, limit: int = MAX_LINE) -> Any:
    """Return the JSON value on a line, or a BadLine with the reason why it cannot be read."""
    if raw.data is None:
        return BadLine(line=raw.number, reason=f"longer than {limit / 2**20:g} MiB")
    data = raw.data.removeprefix(BOM) if raw.number == 1 else raw.data
    if reason := _unfit(data):
        return BadLine(line=raw.number, reason=reason)
    try:
        return _parse(data)
    except UnicodeDecodeError as error:
        return BadLine(line=raw.number, reason=f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return BadLine(line=raw.number, reason=f"not JSON at character {error.pos + 1}: {error.msg}")
    except ValueError as error:  # our own hooks, and Python's limit on the digits of a number
        return BadLine(line=raw.number, reason=str(error))


def _parse(data: bytes) -> Any:
    """Return the JSON value in these bytes; raise a ValueError whose message does not quote them."""
    value = json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    if _SURROGATE.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("half a surrogate pair: not text that can be stored") from None
    return value


def _unfit(data: bytes) -> str:
    """Return why these bytes must not be parsed; "" if they may be."""
    if b"\0" in data:
        return "binary data (a NUL byte)"
    if data.count(b"[") + data.count(b"{") + data.count(b",") < MAX_DEPTH:
        return ""  # neither limit can be exceeded: no scan is needed
    depth = values = 0
    for token in _TOKEN.finditer(data):
        mark = token.group()[:1]
        depth += (mark in b"[{") - (mark in b"]}")
        values += mark in b"[{,"
        if depth > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH}"
        if values > MAX_VALUES:
            return f"more than {MAX_VALUES:,} values"
    return ""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value
