"""Reader of batches (OpenAI, Anthropic): requests and their results, by `custom_id`.

Invariant: a request without its result, and a result without its request, are set aside: a batch's file of
requests and its file of results have to be one file (`cat requests.jsonl results.jsonl`).
"""

from collections.abc import Iterable, Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import Paths, read_exchange
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import at, first
from corpus.formats.sessions import numbered
from corpus.lines import BadLine

NAME = "batch"

_REQUESTS = ("body", "params")
_RESULTS = ("response.body", "result.message")
_FAULTS = (
    "error.message",
    "response.body.error.message",
    "result.error.error.message",
    "result.error.message",
)
_PATHS = Paths(needs=("request",), request=("request",), response=("response",))


def recognises(value: Any) -> bool:
    """Return whether a value is a request or a result of a batch."""
    if not isinstance(value, dict) or "custom_id" not in value:
        return False
    return any(name in value for name in (*_REQUESTS, "response", "result", "error"))


def read(value: Any, line: int) -> Reading:
    """Return what a single record gives; see `join` for a whole file."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of each request with its result, then what is set aside."""
    requests: dict[str, tuple[int, Json]] = {}
    results: dict[str, tuple[int, Json]] = {}
    for line, value in numbered(records):
        kind = requests if any(name in value for name in _REQUESTS) else results
        kind[str(value.get("custom_id"))] = (line, value)
    for key, (line, value) in requests.items():
        yield _pair(line, value, results.pop(key, None))
    for line, _ in results.values():
        yield BadLine(line=line, reason="a result without its request: put the file of requests before it")


def _pair(line: int, request: Json, result: tuple[int, Json] | None) -> Part:
    """Return the conversation of a request and its result, or why there is none."""
    if result is None:
        return BadLine(line=line, reason="a request without its result: put the file of results behind it")
    response = first(result[1], _RESULTS)
    if response is None or at(response, "error") is not None:
        why = "failed" if first(result[1], _FAULTS) is not None else "has no result"
        return BadLine(line=result[0], reason=f"the request {why}")
    return read_exchange({"request": first(request, _REQUESTS), "response": response}, line, _PATHS, NAME)


FORMAT = Format(
    name=NAME,
    title="Batches of OpenAI and Anthropic: the requests and the results in one file",
    seen="chat completions, responses and messages",
    link="https://platform.openai.com/docs/guides/batch",
    recognises=recognises,
    read=read,
    join=join,
)
