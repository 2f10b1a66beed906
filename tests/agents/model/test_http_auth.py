"""Access to the HTTP server."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agents.model.http_auth import AUTHENTICATED, AsgiMessage, AuthMiddleware, Receive, Scope, Send
from corpus.errors import ConfigError

pytestmark = pytest.mark.anyio
TOKEN = "a-token-that-is-long-enough-to-pass"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Act as a foreign application that reports the length of the body."""
    length, message = 0, await receive()
    while True:
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            break
        message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def client(guard: AuthMiddleware, host: str = "127.0.0.1:8123", token: str = TOKEN) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(guard),
        base_url=f"http://{host}",
        headers={"Authorization": f"Bearer {token}"},
    )


GUARD = AuthMiddleware(echo, token=TOKEN, port=8123, max_body_bytes=100)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8123", "localhost:8123", "[::1]:8123", "localhost", "nightschool", "LOCALHOST:8123"]
)
async def test_our_own_names_are_served(host: str) -> None:
    async with client(GUARD, host) as http:
        assert (await http.get("/")).status_code == 200


@pytest.mark.parametrize(
    "host", ["example.com", "127.0.0.1.example.com", "localhost:9", "localhost.:8123", "0.0.0.0:8123"]
)
async def test_a_foreign_host_is_refused_even_for_health(host: str) -> None:
    async with client(GUARD, host) as http:
        for path in ("/", "/health"):
            answer = await http.get(path)
            assert answer.status_code == 403
            assert "Host" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "origin", ["http://example.com", "null", "http://localhost:9", "https://localhost:8123", ""]
)
async def test_a_foreign_origin_is_refused_though_the_token_is_right(origin: str) -> None:
    async with client(GUARD) as http:
        assert (await http.post("/", headers={"Origin": origin})).status_code == 403


async def test_our_own_origin_is_served_and_a_unix_socket_has_none() -> None:
    own = {"Origin": "http://127.0.0.1:8123"}
    async with client(GUARD) as http:
        assert (await http.get("/", headers=own)).status_code == 200
    async with client(AuthMiddleware(echo, token=TOKEN), "nightschool") as http:
        assert (await http.get("/", headers=own)).status_code == 403


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "\xfc" * 20])
async def test_a_wrong_token_is_refused(token: str) -> None:
    async with client(GUARD) as http:
        value = f"Bearer {token}".encode("latin-1")
        answer = await http.get("/", headers={b"Authorization": value})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_missing_or_doubled_token_is_refused() -> None:
    async with client(GUARD) as http:
        del http.headers["Authorization"]
        assert (await http.get("/")).status_code == 401
        twice = [("Authorization", f"Bearer {TOKEN}")] * 2
        assert (await http.get("/", headers=twice)).status_code == 401
        assert (await http.get("/", headers={"Authorization": f"Basic {TOKEN}"})).status_code == 401


async def echo_credential(scope: Scope, receive: Receive, send: Send) -> None:
    """Act as a foreign application that reports whether the token or another credential was given."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ours" if scope[AUTHENTICATED] else b"another's"})


async def test_credentials_of_another_server_are_passed_on_and_marked() -> None:
    guard = AuthMiddleware(
        echo_credential, token=TOKEN, port=8123, external_auth_paths=frozenset({"/v1/models"})
    )
    async with client(guard, token="another-servers-key") as http:
        assert (await http.get("/v1/models")).text == "another's"
        assert (await http.get("/v1/models", headers={"Authorization": "Basic YTpi"})).text == "another's"
        assert (await http.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})).text == "ours"
        assert (await http.get("/v1/models", headers={"Authorization": ""})).status_code == 401
        assert (await http.get("/v1/models", headers=[("Authorization", "Bearer x")] * 2)).status_code == 401
        assert (await http.get("/v1/models", headers={"Origin": "http://example.com"})).status_code == 403
        assert (await http.get("/v1/models", headers={"Host": "example.com"})).status_code == 403
        assert (await http.get("/v1/models", headers={"Content-Length": str(2**30)})).status_code == 413
        for path in ("/", "/v1/models/", "/v1", "/V1/models", "/v1//models"):
            assert (await http.get(path)).status_code == 401


async def test_health_needs_no_token_and_returns_only_ok() -> None:
    async with client(GUARD, token="none") as http:
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert (await http.post("/health")).status_code == 401


async def test_a_body_over_the_limit_is_refused_whether_declared_or_not() -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"0123456789"

    async with client(GUARD) as http:
        assert (await http.post("/", content=b"x" * 100)).text == "100"
        assert (await http.post("/", content=b"x" * 101)).status_code == 413
        assert (await http.post("/", content=chunks(10))).text == "100"
        answer = await http.post("/", content=chunks(11))
        assert answer.status_code == 413
        assert "longer than 100 bytes" in answer.json()["error"]["message"]


async def test_a_websocket_is_closed_unread() -> None:
    sent: list[AsgiMessage] = []

    async def receive() -> AsgiMessage:
        raise AssertionError("nothing is read from a websocket")

    async def send(message: AsgiMessage) -> None:
        sent.append(message)

    await GUARD({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_weak_token_prevents_the_start() -> None:
    with pytest.raises(ConfigError, match="16 characters"):
        AuthMiddleware(echo, token="short")


async def test_the_real_server_checks_its_token(server: Any) -> None:
    with server.http() as http:
        assert http.get("/v1/models").status_code == 200
        assert http.get("/v1/models", headers={"Host": "example.com"}).status_code == 403
        assert http.get("/v1/models", headers={"Origin": "http://example.com"}).status_code == 403
    with server.http(Authorization="Bearer wrong") as http:
        assert http.get("/v1/models").status_code == 401
        assert http.get("/metrics").status_code == 401
        assert http.get("/health").json() == {"status": "ok"}
