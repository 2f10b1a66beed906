"""Whatever bytes a log or a request has, it is read, or refused in a sentence; nothing else is raised."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.ingest.peek import conversations_in
from agents.model import requests
from agents.model.http_auth import AuthMiddleware
from corpus.errors import LogRefused, UsageError
from loop.capture.exchange import ChatRequest, Refusal, parse_request, parse_response

SAMPLES = sorted((Path(__file__).parents[2] / "corpus/formats/samples").glob("*"))
CUTS = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"',
    b"{",
    b"]",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"null",
)
"""What takes the place of some bytes of a sample."""
SHORT = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
LONG = settings(SHORT, max_examples=20_000, derandomize=False)

words = st.sampled_from(
    "messages role user assistant content text type conversations seeds temperature max_tokens stop tools "
    "top_p n steer tool_calls function arguments name id".split()
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=25,
)
bodies = st.dictionaries(words, values, max_size=6)


def mangled(sample: bytes, draw: random.Random) -> bytes:
    """Return a sample in which some bytes are exchanged, left out or doubled."""
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(sample) + 1)
        end = min(len(sample), start + draw.choice((0, 1, 1, 5, 200)))
        part = draw.choice((draw.choice(CUTS), sample[start:end] * 2))
        sample = sample[:start] + part + sample[end:]
    return sample


def read(path: Path, sample: bytes) -> None:
    """Read a log, which may be refused."""
    path.write_bytes(sample)
    try:
        found = conversations_in(path)
    except LogRefused as refused:
        assert str(refused)
    else:
        assert all(turn.text.isprintable() or turn.text for each in found for turn in each.turns)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_mangled_log_is_read_or_refused(sample: Path, tmp_path: Path) -> None:
    draw = random.Random(sample.name)
    for _ in range(4):
        read(tmp_path / sample.name, mangled(sample.read_bytes(), draw))


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_many_mangled_logs_are_read_or_refused(sample: Path, tmp_path: Path) -> None:
    draw = random.Random()
    for _ in range(1000):
        read(tmp_path / sample.name, mangled(sample.read_bytes(), draw))


def ask(body: dict[str, Any]) -> None:
    """Have every reader of a request's body read this one."""
    raw = json.dumps(body).encode()
    for reader in (
        lambda: requests.sampling_settings(body, default_max_tokens=5),
        lambda: requests.sampling_settings_each(body, 2),
        lambda: requests.conversations(body),
        lambda: requests.tools_each(body, 2),
        lambda: requests.batch_rows(body),
        lambda: requests.prompts(body),
        lambda: requests.seeds(body, 0, 2),
        lambda: requests.template_settings(body),
        lambda: requests.choices(body),
        lambda: requests.parse_body(raw),
    ):
        try:
            reader()
        except UsageError as refused:
            assert str(refused)
    assert isinstance(parse_request(raw), ChatRequest | Refusal)
    parse_response(raw, streamed=False)
    parse_response(b"data: " + raw + b"\n\ndata: [DONE]\n\n", streamed=True)


@SHORT
@given(bodies)
def test_a_request_of_any_shape_is_read_or_refused(body: dict[str, Any]) -> None:
    ask(body)


@pytest.mark.slow
@LONG
@given(bodies)
def test_many_requests_of_any_shape_are_read_or_refused(body: dict[str, Any]) -> None:
    ask(body)


header = st.tuples(
    st.sampled_from([b"host", b"origin", b"authorization", b"content-length", b"transfer-encoding"]),
    st.binary(max_size=12)
    | st.sampled_from([b"127.0.0.1", b"Bearer " + b"t" * 43, b"Bearer x", b"5", b"-1"]),
)


@pytest.mark.anyio
@SHORT
@given(headers=st.lists(header, max_size=6), path=st.text(max_size=8), method=st.text(max_size=5))
async def test_no_head_of_a_request_passes_without_the_token(headers: Any, path: str, method: str) -> None:
    reached: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        reached.append(scope["path"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    guard = AuthMiddleware(app, token="t" * 43)
    await guard({"type": "http", "path": path, "method": method, "headers": headers}, receive, send)
    given_tokens = [value for name, value in headers if name == b"authorization"]
    if reached:
        assert given_tokens == [b"Bearer " + b"t" * 43]
    else:
        assert sent[0]["status"] in (401, 403, 413)
