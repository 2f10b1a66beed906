"""Readers of traces, gateways and interfaces, in which a record is a call of a model."""

import json
from typing import Any

import pytest

from corpus.conversation import Conversation
from corpus.formats.detect import reader, recognise
from corpus.formats.spans import attributes
from corpus.lines import BadLine
from tests.corpus.test_sessions import BOTH, parts, words

ASKED = {"role": "user", "content": "Mend the lathe."}
ANSWERED = {"role": "assistant", "content": "It runs."}


def one(name: str, record: Any) -> Conversation:
    assert recognise(record) == name
    (read,) = reader(name)(record, 7)
    assert isinstance(read, Conversation), read
    return read


def said(name: str, record: Any) -> list[list[tuple[str, str]]]:
    return [[(turn.role, turn.text) for turn in one(name, record).turns]]


def otlp(**values: str) -> list[dict[str, Any]]:
    return [{"key": key.replace("__", "."), "value": {"stringValue": value}} for key, value in values.items()]


def test_attributes_are_the_same_object_in_every_form_of_an_export() -> None:
    nested = {"a": {"b": [{"c": 1}], "d": "x"}}
    typed = [{"key": "a.b.0.c", "value": {"intValue": 1}}, {"key": "a.d", "value": {"stringValue": "x"}}]
    for span in (
        {"attributes": nested},
        {"attributes": {"a.b.0.c": 1, "a.d": "x"}},
        {"attributes": json.dumps({"a.b": [{"c": 1}], "a.d": "x"})},
        {"attributes.a.b": [{"c": 1}], "attributes.a.d": "x"},
        {"attributes": typed},
    ):
        assert attributes(span) == nested


def test_gen_ai_messages_are_read_from_attributes_and_events_of_every_version() -> None:
    body = {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "Mend the lathe."}
    done = {"gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": "It runs."}
    events = [
        {"name": "gen_ai.user.message", "attributes": {"content": "Mend the lathe."}},
        {"name": "gen_ai.choice", "attributes": {"index": 0, "message": '{"content": "It runs."}'}},
    ]
    content = [
        {"name": "gen_ai.content.prompt", "attributes": {"gen_ai.prompt": json.dumps([ASKED])}},
        {"name": "gen_ai.content.completion", "attributes": {"gen_ai.completion": json.dumps([ANSWERED])}},
    ]
    for span in (
        {"attributes": {**body, **done}},
        {"attributes": {"gen_ai.input.messages": [ASKED], "gen_ai.output.messages": [ANSWERED]}},
        {"attributes": {"gen_ai.system": "openai"}, "events": events},
        {"attributes": {"gen_ai.system": "openai"}, "events": content},
    ):
        assert said("gen-ai", span) == BOTH


def test_an_otlp_export_gives_the_calls_of_models_and_not_the_agent_around_them() -> None:
    def span(operation: str, question: str) -> dict[str, Any]:
        asked = json.dumps([{"role": "user", "parts": [{"type": "text", "content": question}]}])
        done = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "It runs."}]}])
        held = {"gen_ai__input__messages": asked, "gen_ai__output__messages": done}
        return {"traceId": "t", "attributes": otlp(gen_ai__operation__name=operation, **held)}

    spans = [span("invoke_agent", "The whole."), span("chat", "Mend the lathe.")]
    assert words("gen-ai", {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}) == BOTH
    assert words("gen-ai", spans[0])[0][0] == ("user", "The whole.")


def test_a_persons_annotation_rates_a_span_of_phoenix_and_an_evaluators_does_not() -> None:
    held = {
        "openinference.span.kind": "LLM",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": "Mend the lathe.",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "It runs.",
    }
    span = {"name": "c", "context": {"trace_id": "t"}, "span_kind": "LLM", "attributes": held}
    note = {"name": "q", "annotator_kind": "HUMAN", "result": {"label": "thumbs-down"}}
    judged = {"name": "q", "annotator_kind": "LLM", "result": {"label": "good", "score": 1}}
    assert said("openinference", span) == BOTH
    assert one("openinference", {**span, "annotations": [judged, note]}).turns[1].rating == -1
    assert one("openinference", {**span, "annotations": [judged]}).turns[1].rating is None


def test_langfuse_generations_are_read_once_with_the_scores_of_their_trace() -> None:
    generation = {"id": "o", "type": "GENERATION", "startTime": "2026-01-01T10:00:00Z", "input": [ASKED],
                  "output": ANSWERED}  # fmt: skip
    span = {**generation, "type": "SPAN", "input": "whole"}
    trace = {"id": "t", "timestamp": "2026-01-01T10:00:00Z", "userId": "ada", "input": "whole", "output": "x",
             "observations": [span, generation],
             "scores": [{"name": "user-rating", "dataType": "CATEGORICAL", "stringValue": "bad"},
                        {"name": "toxicity", "source": "EVAL", "value": 0.1}]}  # fmt: skip
    (read,) = parts("langfuse", trace)
    assert isinstance(read, Conversation) and read.source == "ada"
    assert [(turn.text, turn.rating) for turn in read.turns] == [("Mend the lathe.", None), ("It runs.", -1)]
    row = {"id": "o", "trace_id": "t", "type": "GENERATION", "user_id": "bo", "input": json.dumps([ASKED]),
           "output": json.dumps(ANSWERED)}  # fmt: skip
    assert said("langfuse", row) == BOTH and one("langfuse", row).source == "bo"


def test_langsmith_runs_are_rated_by_peoples_feedback_and_the_chain_around_them_is_left_out() -> None:
    stats = {"user_score": {"n": 1, "avg": 0.0}, "correctness": {"n": 1, "avg": 1.0}}
    run = {"id": "r", "trace_id": "t", "run_type": "llm", "parent_run_id": "p", "feedback_stats": stats,
           "inputs": {"messages": [ASKED]}, "outputs": {"choices": [{"message": ANSWERED}]}}  # fmt: skip
    chain = {**run, "id": "p", "run_type": "chain", "parent_run_id": None, "inputs": {"input": "whole"},
             "outputs": {"output": "x"}}  # fmt: skip
    (read,) = parts("langsmith", chain, run)
    assert isinstance(read, Conversation) and [turn.text for turn in read.turns] == [
        "Mend the lathe.",
        "It runs.",
    ]
    assert read.turns[1].score is not None and read.turns[1].score.value == 0.0


def test_a_helicone_request_without_its_bodies_is_set_aside() -> None:
    row = {"request_id": "r", "signed_body_url": "https://x", "response_status": 200}
    (read,) = reader("helicone")(row, 7)
    assert isinstance(read, BadLine) and "no question" in read.reason


@pytest.mark.parametrize(
    "record",
    [
        {"input": "Mend the lathe.", "output": [{"type": "message", **ANSWERED}]},
        {"body": {"input": [ASKED]}, "response": {"output": [{"type": "message", **ANSWERED}]}},
        {"object": "response", "input": [{"type": "message", **ASKED}], "output": [{"type": "reasoning"},
         {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It runs."}]}]},
    ],
)  # fmt: skip
def test_items_of_the_responses_interface_are_a_conversation(record: Any) -> None:
    assert said("responses", record) == BOTH


def test_a_response_and_a_completion_without_their_question_are_set_aside() -> None:
    for name, record in (
        ("responses", {"object": "response", "output": [{"type": "message", **ANSWERED}]}),
        ("stored-completions", {"object": "chat.completion", "choices": [{"message": ANSWERED}]}),
    ):
        assert recognise(record) == name
        (read,) = reader(name)(record, 7)
        assert isinstance(read, BadLine) and "without its" in read.reason


def test_the_item_of_an_evaluation_is_a_question_and_its_sample_the_answer() -> None:
    sample = {"output_text": "It runs.", "model": "m"}
    assert said("stored-completions", {"item": {"input": [ASKED]}, "sample": sample}) == BOTH


def test_requests_of_a_batch_have_their_results_whatever_the_order() -> None:
    openai = [
        {"custom_id": "1", "response": {"status_code": 200, "body": {"choices": [{"message": ANSWERED}]}}},
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [ASKED]}},
    ]
    block = {"role": "assistant", "content": [{"type": "text", "text": "It runs."}]}
    anthropic = [
        {"custom_id": "1", "params": {"messages": [ASKED]}},
        {"custom_id": "1", "result": {"type": "succeeded", "message": block}},
    ]
    assert words("batch", *openai) == words("batch", *anthropic) == BOTH


def test_a_batch_in_two_files_is_set_aside_with_what_to_do() -> None:
    (lone,) = parts("batch", {"custom_id": "1", "body": {"messages": [ASKED]}})
    (orphan,) = parts("batch", {"custom_id": "1", "response": {"body": {"choices": []}}})
    assert isinstance(lone, BadLine) and "file of results" in lone.reason
    assert isinstance(orphan, BadLine) and "file of requests" in orphan.reason
