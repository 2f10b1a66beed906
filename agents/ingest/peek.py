"""The conversations in one log file, without taking them in.

Invariant: nothing is written, in the ledger or elsewhere; what is returned is scrubbed as it would be if it were
taken in. A file that holds none is a `LogRefused` with the reason. Knows no ledger.
"""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

from agents.ingest.files import open_log, told
from corpus.conversation import Conversation
from corpus.errors import LogRefused
from corpus.formats.detect import detect, reader
from corpus.lines import MAX_ARRAY, BadLine, RawLine, array_items, decode, is_array, whole_lines
from corpus.scrub.patterns import scrub_conversation


def conversations_in(path: Path) -> list[Conversation]:
    """The conversations of a file, in the order in which they begin; turns that arrive one by one are joined."""
    items = _items(path)
    name = detect(items)
    if not isinstance(name, str):
        raise LogRefused(f"{path} holds no conversation ({name.reason if name else 'no whole line'})")
    found: dict[str, Conversation] = {}
    for item in items:
        one = _read(item, name)
        if one is not None:
            key = one.key or f"\0{len(found)}"
            joined = found[key].turns if key in found else ()
            found[key] = replace(one, turns=(*joined, *one.turns))
    if not found:
        raise LogRefused(f"{path} holds no conversation that can be read as {name}")
    return [scrub_conversation(one) for one in found.values()]


def _items(path: Path) -> list[RawLine | BadLine]:
    """The records of a file; also a last line that has no newline, for nobody goes on writing it."""
    try:
        opened = open_log(path)
        with opened.stream:
            data = opened.stream.read(MAX_ARRAY + 1)
    except LogRefused as refused:
        raise LogRefused(f"{path}: {refused}") from None
    except OSError as error:
        raise LogRefused(f"{path} cannot be read: {told(error)}") from error
    if len(data) > MAX_ARRAY:
        raise LogRefused(
            f"{path} has more than {MAX_ARRAY // 2**20} MiB: take it in with `nightschool ingest`"
        )
    if is_array(opened.head):
        return list(array_items(data))
    return list(whole_lines(BytesIO(data + b"\n"), until=len(data) + 1))


def _read(item: RawLine | BadLine, format: str) -> Conversation | None:
    """The conversation on a line, or the part of one; None where there is none."""
    if isinstance(item, BadLine) or item.blank:
        return None
    value = decode(item)
    found = None if isinstance(value, BadLine) else reader(format)(value, item.number)
    return found if isinstance(found, Conversation) and found.turns else None
