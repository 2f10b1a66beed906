"""The proxy: passes users' requests on to the served model, and captures the conversations.

Invariant: body and answer go through byte for byte and as they come, and every chat answer carries a receipt.
A caller that leaves ends the request to the model server. The caller's own credential goes on to the model
server; ours only for a caller that gave the home's token. This module knows nothing about the content of an
answer.
"""

import hashlib
import hmac
from collections.abc import Iterable
from datetime import UTC, datetime

import anyio
import anyio.to_thread
import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from agents.model.http_auth import AUTHENTICATED
from corpus.errors import ModelUnavailable
from loop.capture.exchange import ChatRequest, Refusal, parse_request
from loop.capture.log import Capture, Exchange
from loop.engine.service import Service

RECEIPT = b"x-nightschool-receipt"
TURN_TYPE = "X-Turn-Type"
SESSION = "X-Session-Id"
MAX_RAW = 64 * 2**20
"""Largest answer that is captured, in bytes: some 200,000 chunks of a stream."""
PATHS = frozenset({"/v1/chat/completions", "/v1/models"})
"""The paths that are passed on."""

_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    "transfer-encoding upgrade".split()
)
"""Headers about one connection, not about the message (RFC 9110, 7.6.1)."""
_NOT_SENT = _HOP_BY_HOP | frozenset(
    "host content-length accept-encoding expect cookie origin referer".split()
)
"""Headers that the model server does not get: they are of the connection to us, or ours to set."""
_NOT_RETURNED = _HOP_BY_HOP | {"date", RECEIPT.decode()}

Headers = list[tuple[bytes, bytes]]


class Proxy:
    """Passes requests on, for one service."""

    def __init__(self, service: Service, capture: Capture) -> None:
        self._service = service
        self._capture = capture
        self._salt = service.home.token().encode()

    async def models(self, request: Request) -> "ProxiedResponse":
        """Pass on a request for the served models."""
        return ProxiedResponse(self._service, self._capture, request)

    async def chat(self, request: Request) -> "ProxiedResponse":
        """Pass on a turn of a conversation, or side traffic."""
        body = await request.body()
        main = all(kind.strip().lower() == "main" for kind in request.headers.getlist(TURN_TYPE))
        if main and request.scope[AUTHENTICATED]:
            # Others may be refused; those who are not show in the model server's metrics.
            self._service.users.asked()
        taking: ChatRequest | Refusal = Refusal(word="side")
        if main:
            taking = Refusal(word="off")
            if self._service.settings.http.capture:
                taking = await anyio.to_thread.run_sync(parse_request, body)
        source = self._caller(request)
        return ProxiedResponse(self._service, self._capture, request, body=body, taking=taking, source=source)

    def _caller(self, request: Request) -> str:
        """Return a name for the holder of this credential that does not reveal it."""
        given = request.headers.get("authorization", "").encode()
        return f"caller-{hmac.new(self._salt, given, hashlib.sha256).hexdigest()[:12]}"


class ProxiedResponse:
    """One request and its answer, as an ASGI application."""

    def __init__(
        self,
        service: Service,
        capture: Capture,
        request: Request,
        *,
        body: bytes = b"",
        taking: ChatRequest | Refusal | None = None,
        source: str = "",
    ) -> None:
        """Prepare to pass a request on.

        Args:
            service: The running service.
            capture: Where exchanges are captured.
            request: The user's request.
            body: Its body.
            taking: What to capture with the answer, or why to capture nothing; None if it is no
            conversation.
            source: Who asks, where the request does not say.
        """
        self._model = service.model
        self._capture = capture
        self._request = request
        self._body = body
        self._taking = taking
        self._source = source
        self._receipt = ""
        self._pieces: list[bytes] = []
        self._size = 0
        self._streamed = self._whole = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass both ways until either side ends."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope, name="watch the caller")
                await self._pass(scope, receive, send)
                tasks.cancel_scope.cancel()
        finally:
            if self._receipt:
                self._finish()

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and return the answer."""
        asking, own = self._request, self._request.scope[AUTHENTICATED]
        headers = _kept(asking.headers.raw, _NOT_SENT | {"authorization"} if own else _NOT_SENT)
        headers.append((b"accept-encoding", b"identity"))
        target = f"{asking.url.path}?{asking.url.query}".removesuffix("?")
        try:
            answer = await self._model.forward(asking.method, target, self._body, headers)
        except ModelUnavailable as error:
            fault = {"message": str(error), "type": "server_error", "param": None, "code": 503}
            headers = self._receipt_header(503)
            more = {name.decode(): value.decode() for name, value in headers}
            await JSONResponse({"error": fault}, 503, more)(scope, receive, send)
            return
        try:
            await self._return(answer, send)
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()

    async def _return(self, answer: httpx.Response, send: Send) -> None:
        """Return the answer as it comes."""
        status = answer.status_code
        headers = [*_kept(answer.headers.raw, _NOT_RETURNED), *self._receipt_header(status)]
        self._streamed = answer.headers.get("content-type", "").startswith("text/event-stream")
        await send({"type": "http.response.start", "status": status, "headers": headers})
        try:
            async for chunk in answer.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._size += len(chunk)
                if self._receipt and self._size <= MAX_RAW:
                    self._pieces.append(chunk)
        except httpx.TransportError:
            return  # no end: uvicorn closes the connection, so the caller sees that it broke off
        self._whole = True
        await send({"type": "http.response.body", "body": b""})

    def _receipt_header(self, status: int) -> Headers:
        """Return the receipt of an answer with this status, or why there is none."""
        taking = self._taking
        if taking is None:
            return []
        if isinstance(taking, ChatRequest) and not 200 <= status < 300:
            taking = Refusal(word="error")
        if isinstance(taking, Refusal):
            return [(RECEIPT, f"none; {taking.word}".encode())]
        self._receipt = self._capture.begin()
        return [(RECEIPT, self._receipt.encode())]

    def _finish(self) -> None:
        """Have the exchange captured, or note why it is not."""
        if self._size > MAX_RAW:
            self._capture.refuse(self._receipt, "long")
        elif not (self._whole or self._streamed):  # a stream shows by itself whether it ended
            self._capture.refuse(self._receipt, "broken")
        elif isinstance(self._taking, ChatRequest):
            self._capture.take(
                Exchange(
                    receipt=self._receipt,
                    request=self._taking,
                    source=self._source,
                    session=self._request.headers.get(SESSION, "").strip(),
                    raw=b"".join(self._pieces),
                    streamed=self._streamed,
                    at=datetime.now(UTC),
                )
            )


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """End the exchange when the caller hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _kept(headers: Iterable[tuple[bytes, bytes]], without: frozenset[str]) -> Headers:
    """Return the headers that go on: all but these and those that belong to the connection."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = [value.decode("latin-1") for name, value in lowered if name == b"connection"]
    dropped = without | {word.strip().lower() for value in named for word in value.split(",")}
    return [(name, value) for name, value in lowered if name.decode("latin-1") not in dropped]
