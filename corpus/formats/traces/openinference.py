"""Reader of Phoenix's spans, with the attributes of OpenInference.

Invariant: a person's annotation rates the answer of its span; an evaluator's does not.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import answered_in, asked, conversation_of
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import at, first, items_at, text_at
from corpus.formats.spans import attributes, innermost, spans_in, timed, trace_of
from corpus.lines import BadLine

NAME = "openinference"

_KINDS = ("LLM", "CHAIN", "AGENT")


def recognises(value: Any) -> bool:
    """Return whether a value is a span of Phoenix."""
    return any(map(_is_span, spans_in(value)))


def _is_span(span: Json) -> bool:
    named = any("attributes" in key for key in span)
    return named and _kind(span) != "" and ("events" in span or trace_of(span) != "" or "span_kind" in span)


def _kind(span: Json) -> str:
    kind = text_at(attributes(span), "openinference.span.kind") or text_at(span, "span_kind")
    return kind.upper() if kind.upper() in (*_KINDS, "TOOL", "RETRIEVER", "EMBEDDING", "EVALUATOR") else ""


def read(value: Any, line: int) -> Reading:
    """Return what a single span gives; see `join` for a whole file."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of each call of a model."""
    yield from innermost(
        (trace_of(span), _kind(span) == "LLM", _read(span, line))
        for line, value in records
        for span in spans_in(value)
        if _kind(span) in _KINDS
    )


def _read(span: Json, line: int) -> tuple[Part, ...]:
    """Return the conversation of a span; () for one that has no messages."""
    held = attributes(span)
    messages = _messages(at(held, "llm.input_messages")) or asked(at(held, "input.value"))
    if not messages:
        return ()
    given = _messages(at(held, "llm.output_messages"))
    answers = given or answered_in(at(held, "output.value"))
    if isinstance(answers, str):
        return (BadLine(line=line, reason=answers),)
    shown = timed(answers, span, ("start_time", "startTime", "startTimeUnixNano"))
    source = text_at(held, "user.id")
    return (conversation_of([*messages, *shown], line, NAME, source=source, feedback=_feedback(span)),)


def _messages(value: Any) -> list[Json]:
    """Return messages without the names that OpenInference puts before their fields."""
    found = []
    for item in items_at(value, ""):
        message = at(item, "message")
        if not isinstance(message, dict):
            continue
        parts = [at(part, "message_content") or part for part in items_at(message, "contents")]
        calls = [at(call, "tool_call") or call for call in items_at(message, "tool_calls")]
        found.append(
            {**message, "content": message.get("content") or parts, "contents": None, "tool_calls": calls}
        )
    return found


def _feedback(span: Json) -> list[Json]:
    """Return what people said of the answer of a span, each as a record with a rating."""
    found = []
    for note in items_at(first(span, ("annotations", "span_annotations", "spanAnnotations")), ""):
        kind = first(note, ("annotator_kind", "annotatorKind"))
        if str(kind).upper() == "HUMAN":
            result = at(note, "result") or note
            found.append({"feedback": first(result, ("label",)) or at(result, "score")})
    return found


FORMAT = Format(
    name=NAME,
    title="Phoenix: spans with the attributes of OpenInference",
    seen="attributes nested, flat, and as columns of a table; annotations",
    link="https://arize-ai.github.io/openinference/spec/",
    recognises=recognises,
    read=read,
    join=join,
)
