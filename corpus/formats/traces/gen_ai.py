"""Reader of OpenTelemetry's spans with `gen_ai` attributes, alone or in an OTLP export.

Invariant: the messages are in the attributes or in the span's events; of all forms that the conventions and
OpenLLMetry had, the first with a question counts.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from corpus.aliases import Json
from corpus.formats.exchange import answered_in, asked, conversation_of
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.parts import as_text, at, first, first_text, items_at, parsed, text_at
from corpus.formats.spans import attributes, innermost, plain, spans_in, timed, trace_of
from corpus.lines import BadLine

NAME = "gen-ai"

_OUTER = ("invoke_agent", "create_agent", "invoke_workflow")
_OTHER = ("execute_tool", "embeddings", "retrieval")
_QUESTIONS = ("gen_ai.input.messages", "gen_ai.prompt", "llm.prompts", "gen_ai.content.prompt")
_ANSWERS = ("gen_ai.output.messages", "gen_ai.completion", "llm.completions", "gen_ai.content.completion")
_STARTS = ("startTimeUnixNano", "start_time", "startTime", "start_time_unix_nano")


def recognises(value: Any) -> bool:
    """Return whether a value is a span with `gen_ai` attributes or events, or an export that has one."""
    return any(map(_is_span, spans_in(value)))


def _is_span(span: Json) -> bool:
    return at(attributes(span), "gen_ai") is not None or any(map(_named, _events(span)))


def read(value: Any, line: int) -> Reading:
    """Return what a single record gives; see `join` for a whole file."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversation of each call of a model."""
    yield from innermost(
        (trace_of(span), text_at(attributes(span), "gen_ai.operation.name") not in _OUTER, _read(span, line))
        for line, value in records
        for span in spans_in(value)
    )


def _read(span: Json, line: int) -> tuple[Part, ...]:
    """Return the conversation of a span; () for one that has no messages."""
    held = attributes(span)
    events = [_event(event) for event in _events(span)]
    if text_at(held, "gen_ai.operation.name") in _OTHER:
        return ()
    holders = [held, *(event for event in events if _named(event))]
    question = next((found for holder in holders for path in _QUESTIONS if (found := at(holder, path))), None)
    messages = asked(question) if question else [each for event in events if (each := _spoken(event))]
    if not messages:
        return ()
    response = next((found for holder in holders for path in _ANSWERS if (found := at(holder, path))), None)
    response = parsed(response) or [each for event in events if (each := _chosen(event))]
    answers = (
        [{"role": "assistant", "content": response}] if isinstance(response, str) else answered_in(response)
    )
    if isinstance(answers, str):
        return (BadLine(line=line, reason=answers),)
    system = parsed(at(held, "gen_ai.system_instructions"))
    opening = [{"role": "system", "content": system}] if system else []
    shown = timed(answers, span, _STARTS)
    source = first_text(held, ("user.id", "enduser.id"))
    return (conversation_of([*opening, *messages, *shown[:1]], line, NAME, source=source),)


def _events(span: Json) -> list[Json]:
    return [event for event in items_at(span, "events") if isinstance(event, dict)]


def _named(event: Json) -> bool:
    return str(event.get("name", "")).startswith("gen_ai.")


def _event(event: Json) -> Json:
    """Return an event with its attributes nested, and with its body."""
    body = parsed(plain(event.get("body")))
    return {**attributes(event), "name": event.get("name"), "body": body if isinstance(body, dict) else {}}


def _spoken(event: Json) -> Json | None:
    """Return the message in an event such as gen_ai.user.message; None for another."""
    name = str(event.get("name", ""))
    role = name.removeprefix("gen_ai.").removesuffix(".message")
    if not name.endswith(".message") or role not in ("system", "user", "assistant", "tool"):
        return None
    body = event["body"] or event
    return {"role": role, "content": as_text(body.get("content")), "tool_calls": body.get("tool_calls")}


def _chosen(event: Json) -> Json | None:
    """Return the answer in an event gen_ai.choice; None for another."""
    if event.get("name") != "gen_ai.choice":
        return None
    message = parsed(first(event, ("body.message", "message")))
    return {"role": "assistant", **message} if isinstance(message, dict) else None


FORMAT = Format(
    name=NAME,
    title="OpenTelemetry: spans with gen_ai attributes, also as OTLP; OpenLLMetry",
    seen="the conventions 1.28 (events) to 1.38 (messages in attributes); gen_ai.prompt.N of OpenLLMetry",
    link="https://opentelemetry.io/docs/specs/semconv/gen-ai/",
    recognises=recognises,
    read=read,
    join=join,
)
