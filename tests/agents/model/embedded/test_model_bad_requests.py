"""Invalid requests: each gets a 400 and a sentence that says what to change."""

import json
from typing import Any

import pytest

HELLO: dict[str, Any] = {
    "messages": [{"role": "user", "content": "how are you?"}],
    "max_tokens": 12,
    "seed": 7,
}
BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "at least one"),
    ({"messages": "hi"}, "must be a list"),
    ({"messages": ["hi"]}, "must be an object"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "must be one of"),
    ({"messages": [{"role": ["user"], "content": "hi"}]}, "must be one of"),
    ({"messages": [{"role": "user"}]}, "must be text"),
    ({"messages": [{"role": "user", "content": None}]}, "must be text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts of type text"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character"),
    ({"messages": [{"role": "user", "content": "how are you? " * 400}]}, "this model takes 512"),
    ({"max_tokens": 512}, "this model takes 512"),
    ({"max_tokens": 0}, "max_tokens must be"),
    ({"max_tokens": 2**40}, "max_tokens must be"),
    ({"max_tokens": True}, "max_tokens must be"),
    ({"max_tokens": 1.5}, "max_tokens must be"),
    ({"n": 10**9}, "n must be"),
    ({"n": 0}, "n must be"),
    ({"temperature": float("nan")}, "temperature must be"),
    ({"temperature": float("inf")}, "temperature must be"),
    ({"temperature": -1}, "temperature must be"),
    ({"temperature": "hot"}, "temperature must be"),
    ({"top_p": 0}, "top_p must be"),
    ({"top_p": 1.5}, "top_p must be"),
    ({"min_p": 1.5}, "min_p must be"),
    ({"min_p": "x"}, "min_p must be"),
    ({"seed": 2**64}, "seed must be"),
    ({"seed": "x"}, "seed must be"),
    ({"stop": ["a"] * 17}, "stop must be"),
    ({"stop": ""}, "stop must be"),
    ({"stop": [3]}, "stop must be"),
    ({"stream": "yes"}, "stream must be"),
    ({"stream": True, "n": 2}, "one answer"),
    ({"tools": [{"name": "f"}]}, "tools must be"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "renders no tools"),
    ({"messages": [{"role": "assistant", "content": "", "tool_calls": [7]}]}, "tool_calls must be"),
    ({"logprobs": True}, "logprobs is not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_CHATS)
def test_an_invalid_chat_request_gets_a_400_and_a_sentence(
    server: Any, change: dict[str, Any], reason: str
) -> None:
    with server.http() as http:
        answer = http.post("/v1/chat/completions", content=json.dumps(HELLO | change))
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert reason in error["message"]
        assert error["type"] == "invalid_request_error"


BAD_OTHERS: list[tuple[str, object, str]] = [
    ("/v1/completions", {}, "prompt must be"),
    ("/v1/completions", {"prompt": []}, "prompt must be"),
    ("/v1/completions", {"prompt": ""}, "prompt is empty"),
    ("/v1/completions", {"prompt": [[]]}, "prompt must be"),
    ("/v1/completions", {"prompt": ["a", [1]]}, "not a mixture"),
    ("/v1/completions", {"prompt": [1, 320]}, "from 0 to 319"),
    ("/v1/completions", {"prompt": [-1]}, "from 0 to 319"),
    ("/v1/completions", {"prompt": [10**30]}, "from 0 to 319"),
    ("/v1/completions", {"prompt": ["a"] * 4097}, "1 to 4096"),
    ("/v1/completions", {"prompt": ["a"] * 4096, "n": 2}, "at most 4096"),
    ("/v1/completions", {"prompt": ["a", "b"], "seeds": [1]}, "list of 2"),
    ("/v1/completions", {"prompt": "a", "stream": True}, "do not stream"),
    ("/v1/batch/chat", {"conversations": [[]]}, "at least one"),
    ("/v1/batch/chat", {"conversations": []}, "conversations must be"),
    ("/v1/batch/chat", {"conversations": [[]], "role": "system"}, "role, who speaks next"),
    ("/v1/batch/chat", {"conversations": [[]], "role": "user", "max_tokens": [1, 2]}, "must have 1"),
    ("/v1/batch/chat", {"conversations": [[]], "role": ["user", "user"]}, "must have 1"),
    ("/v1/batch/chat", {"conversations": [[]], "role": ["tool"]}, "role, who speaks next"),
    ("/v1/batch/chat", {"conversations": [[]], "raw": ["a", "b"]}, "must have 1"),
    ("/v1/batch/chat", {"conversations": [[]], "raw": "a"}, "must have 1"),
    ("/v1/batch/chat", {"conversations": [[]], "raw": [3]}, "raw must be text"),
    ("/v1/batch/chat", {"conversations": [[]], "raw": [""]}, "at least one"),
    ("/v1/batch/chat", {"conversations": [[]], "role": "user", "stops": [[""]]}, "stop must be"),
    ("/v1/batch/chat", {"conversations": [[]], "role": "user", "min_p": [2]}, "min_p must be"),
    ("/v1/batch/chat", {"conversations": [[]], "role": "user", "temperature": [None, 2]}, "must have 1"),
    ("/v1/batch/tokenize", {"texts": "a"}, "texts must be"),
    ("/v1/batch/tokenize", {}, "conversations must be"),
    ("/tokenize", {"prompt": 3}, "prompt must be"),
    ("/tokenize", [1], "must be a JSON object"),
]


@pytest.mark.parametrize(("path", "body", "reason"), BAD_OTHERS)
def test_other_invalid_requests_get_a_400_and_a_sentence(
    server: Any, path: str, body: object, reason: str
) -> None:
    with server.http() as http:
        answer = http.post(path, json=body)
        assert answer.status_code == 400, answer.text
        assert reason in answer.json()["error"]["message"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"])
def test_a_body_that_is_not_json_gets_a_400(server: Any, raw: bytes) -> None:
    with server.http() as http:
        answer = http.post("/v1/chat/completions", content=raw)
        assert answer.status_code == 400
        assert "not JSON" in answer.json()["error"]["message"]
