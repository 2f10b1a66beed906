"""Reader of LangSmith's exported runs.

Invariant: runs of type llm are read; a chain is read only if its trace has no such run.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import Paths, read_exchange
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import at, parsed, text_at
from corpus.formats.spans import innermost

NAME = "langsmith"

_CALLS = ("llm", "chat_model")
_PATHS = Paths(
    needs=("run_type", "inputs"),
    request=("inputs",),
    response=("outputs",),
    source=("extra.metadata.user_id", "metadata.user_id"),
    time=("start_time",),
    feedback=("", "rated"),
)


def recognises(value: Any) -> bool:
    """Return whether a value is a run."""
    return isinstance(value, dict) and isinstance(value.get("run_type"), str) and "inputs" in value


def read(value: Any, line: int) -> Reading:
    """Return what a single run gives; see `join` for a whole file."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of each call of a model, and of each chain without one."""
    yield from innermost(
        (text_at(value, "trace_id"), call, (read_exchange(_rated(value), line, _PATHS, NAME),))
        for line, value in records
        if isinstance(value, dict)
        and ((call := value.get("run_type") in _CALLS) or not value.get("parent_run_id"))
        and parsed(value.get("inputs"))
    )


def _rated(run: Json) -> Json:
    """Return a run with the averages of its feedback as scores, each with its name."""
    stats = parsed(run.get("feedback_stats"))
    scores = [
        {"name": name, "value": at(each, "avg")}
        for name, each in (stats.items() if isinstance(stats, dict) else ())
        if at(each, "avg") is not None
    ]
    return {**run, "rated": {"scores": scores}}


FORMAT = Format(
    name=NAME,
    title="LangSmith: exported runs",
    seen="runs with messages as LangChain writes them, and as chat messages",
    link="https://docs.langchain.com/langsmith/data-export",
    recognises=recognises,
    read=read,
    join=join,
)
