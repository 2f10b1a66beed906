"""Reader of Langfuse's exports: traces with or without their observations, and observations alone.

Invariant: only observations that are generations are read. A score of an evaluator is no rating.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import Paths, read_exchange
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import at, first, parsed, text_at
from corpus.formats.spans import innermost

NAME = "langfuse"

_OF_TRACE = ("observations", "htmlPath", "bookmarked", "observationIds", "totalCost", "latency")
_PATHS = Paths(
    needs=("input",),
    request=("input",),
    response=("output",),
    source=("userId", "user_id"),
    time=("startTime", "start_time", "timestamp"),
)


def recognises(value: Any) -> bool:
    """Return whether a value is a trace or an observation."""
    if not isinstance(value, dict):
        return False
    if text_at(value, "traceId") or text_at(value, "trace_id"):
        return isinstance(value.get("type"), str) and ("input" in value or "startTime" in value)
    named = "scores" in value or any(name in value for name in _OF_TRACE)
    return (
        named
        and "input" in value
        and any(name in value for name in ("timestamp", "createdAt", "observations"))
    )


def read(value: Any, line: int) -> Reading:
    """Return what a single record gives; see `join` for a whole file."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of each generation, and of each trace without one."""
    yield from innermost(found for line, value in records for found in _found(value, line))


def _found(value: Any, line: int) -> Iterator[tuple[str, bool, tuple[Part, ...]]]:
    """Yield the generations in a record, then the trace."""
    if not isinstance(value, dict):
        return
    trace = text_at(value, "traceId") or text_at(value, "trace_id")
    if trace:
        if str(value.get("type")).upper() == "GENERATION":
            yield trace, True, _read(value, line)
        return
    observations = parsed(value.get("observations"))
    scores = _scores(value)
    generations = [each for each in observations if at(each, "type") == "GENERATION"
                   and at(each, "input")] if isinstance(observations, list) else []  # fmt: skip
    for number, each in enumerate(sorted(generations, key=lambda each: text_at(each, "startTime"))):
        last = scores if number == len(generations) - 1 else []
        yield text_at(value, "id"), True, _read({"userId": value.get("userId"), **each}, line, last)
    yield text_at(value, "id"), False, _read(value, line)


def _read(value: Json, line: int, more: list[Json] | None = None) -> tuple[Part, ...]:
    """Return the conversation of a record; () for one without a question."""
    if parsed(value.get("input")) in (None, "", [], {}):
        return ()
    scores = [*_scores(value), *(more or [])]
    return (read_exchange({**value, "scores": scores}, line, _PATHS, NAME),)


def _scores(value: Json) -> list[Json]:
    """Return the scores of a record in one form: those of yes and no as true and false, texts as texts."""
    scores = parsed(value.get("scores"))
    if isinstance(scores, dict):  # the table's export: {name: [values]}
        scores = [{"name": name, "value": first({"v": each}, ("v.0", "v"))} for name, each in scores.items()]
    found = []
    for score in scores if isinstance(scores, list) else []:
        if isinstance(score, dict):
            kind = first(score, ("dataType", "data_type"))
            number = score.get("value")
            text = first(score, ("stringValue", "string_value"))
            chosen: Any = bool(number) if kind == "BOOLEAN" else text if kind == "CATEGORICAL" else number
            found.append({**score, "value": chosen})
    return found


FORMAT = Format(
    name=NAME,
    title="Langfuse: exported traces and observations",
    seen="exports of 2 and 3: the tables' JSON, a trace's JSON, files in a bucket",
    link="https://langfuse.com/docs/api-and-data-platform/features/export-from-ui",
    recognises=recognises,
    read=read,
    join=join,
)
