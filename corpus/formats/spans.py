"""Spans of traces as plain records: attributes in any exported form become one nested object.

Invariant: `{"a.b.0": 1}`, `{"a": {"b": [1]}}` and OTLP's lists of keys and typed values give the same object.
In a trace, the calls of a model are read. A span that encloses calls (a chain, an agent) is read only if the
trace has no call of a model. Pure.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.format import Part
from corpus.formats.parts import at, first, items_at, parsed, text_at, time_of
from corpus.lines import BadLine

_TYPED = ("stringValue", "intValue", "doubleValue", "boolValue")
MOST = 10_000
"""Largest index of a list in an attribute's name; a larger one is a name."""


def attributes(span: Json) -> Json:
    """Return the attributes of a span as one nested object; {} without any.

    They are under `attributes`, as an object or a list, or in columns named `attributes.*`.
    """
    held = parsed(first(span, ("attributes", "span_attributes", "tags")))
    flat = plain(held) if isinstance(held, list | dict) else {}
    columns = {key.removeprefix("attributes."): value for key, value in span.items() if "attributes." in key}
    tree: Json = {}
    for key, value in {**columns, **(flat if isinstance(flat, dict) else {})}.items():
        _put(tree, key.split("."), value)
    listed = _listed(tree)
    return listed if isinstance(listed, dict) else {}


def plain(value: Any) -> Any:
    """Return a value of OTLP without its types; any other value as it is."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "key" in item for item in value):
        return {str(item["key"]): plain(item.get("value")) for item in value}
    if isinstance(value, dict) and len(value) == 1:
        name, inner = next(iter(value.items()))
        if name in _TYPED:
            return inner
        if name == "arrayValue":
            values = at(inner, "values")
            return [plain(item) for item in values] if isinstance(values, list) else []
        if name == "kvlistValue":
            return plain(at(inner, "values") or [])
    return value


def _put(tree: Json, path: list[str], value: Any) -> None:
    """Store a value in nested objects, by its path."""
    for step in path[:-1]:
        inner = tree.get(step)
        if not isinstance(inner, dict):
            inner = tree[step] = {}
        tree = inner
    if isinstance(value, dict) and isinstance(tree.get(path[-1]), dict):
        value = {**tree[path[-1]], **value}
    tree[path[-1]] = value


def _listed(value: Any, depth: int = 0) -> Any:
    """Return nested objects with those whose keys are indices as lists, and with names in parts nested."""
    if depth > 40:
        return value
    if isinstance(value, list):
        return [_listed(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if any("." in key for key in value):
        tree: Json = {}
        for key, inner in value.items():
            _put(tree, key.split("."), inner)
        value = tree
    if value and all(key.isdecimal() and int(key) < MOST for key in value):
        return [_listed(value[key], depth + 1) for key in sorted(value, key=int)]
    return {key: _listed(inner, depth + 1) for key, inner in value.items()}


def spans_in(value: Any) -> Iterator[Json]:
    """Yield the spans of a record: itself, or those in an export of OTLP."""
    groups = at(value, "resourceSpans") or at(value, "resource_spans")
    if not isinstance(groups, list):
        if isinstance(value, dict):
            yield value
        return
    for group in groups:
        for scope in items_at(group, "scopeSpans") or items_at(group, "scope_spans"):
            for span in items_at(scope, "spans"):
                if isinstance(span, dict):
                    yield span


def trace_of(span: Json) -> str:
    """Return the id of a span's trace; "" if it names none."""
    places = ("traceId", "trace_id", "context.trace_id")
    return next(filter(None, (text_at(span, place) or _text(span.get(place)) for place in places)), "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def timed(answers: list[Json], span: Json, starts: tuple[str, ...]) -> list[Json]:
    """Return the answers in a span with the time of the span, where they have none of their own.

    Args:
        answers: The answers, as messages.
        span: The span.
        starts: Paths of the span's time; the first with a value counts.
    """
    moment = time_of({"time": first(span, starts)})
    return [{"time": moment.isoformat(), **answer} for answer in answers] if moment else answers


def innermost(found: Iterable[tuple[str, bool, tuple[Part, ...]]]) -> Iterator[Part]:
    """Yield what was read from calls of models; for a trace without any, from its enclosing spans.

    Args:
        found: For each span the id of its trace, whether it is a call of a model, and what was read from it.
    """
    outer: list[tuple[str, tuple[Part, ...]]] = []
    inside: set[str] = set()
    for trace, call, parts in found:
        if call:
            if any(not isinstance(part, BadLine) for part in parts):
                inside.add(trace)
            yield from parts
        else:
            outer.append((trace, parts))
    for trace, parts in outer:
        if not trace or trace not in inside:
            yield from parts
