"""The proxy: it passes users' requests on to the served model, and has the conversations captured.

Invariant: the bodies of requests and answers are passed on unchanged, answers as they arrive. Every chat
answer has a header with a receipt, or with the reason why there is none. If the caller disconnects, the
request to the model server is cancelled. A caller's own credential is passed on to the model server. If the
caller gave the home's token, the service's own credential is sent instead. This module does not read the
content of an answer.
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
"""Size in bytes of the largest answer that is captured: about 200,000 chunks of a stream."""
PATHS = frozenset({"/v1/chat/completions", "/v1/models"})
"""The paths whose requests are passed on to the model server."""

_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    "transfer-encoding upgrade".split()
)
"""Headers that describe one connection and are never passed on (RFC 9110, section 7.6.1)."""
_NOT_SENT = _HOP_BY_HOP | frozenset(
    "host content-length accept-encoding expect cookie origin referer".split()
)
"""Headers of a request that are not passed on: they concern the caller's connection, or the proxy sets
them."""
_NOT_RETURNED = _HOP_BY_HOP | {"date", RECEIPT.decode()}
"""Headers of an answer that are not passed on."""

Headers = list[tuple[bytes, bytes]]


class Proxy:
    """The handlers of the routes that are passed on to the served model."""

    def __init__(self, service: Service, capture: Capture) -> None:
        self._service = service
        self._capture = capture
        self._salt = service.home.token().encode()

    async def models(self, request: Request) -> "ProxiedResponse":
        """Return a response that passes on a request for the list of models."""
        return ProxiedResponse(self._service, self._capture, request)

    async def chat(self, request: Request) -> "ProxiedResponse":
        """Return a response that passes on a chat request, and captures it unless it is side traffic.

        Side traffic is a request with a TURN_TYPE header other than "main", for example one for a title.
        """
        body = await request.body()
        main = all(kind.strip().lower() == "main" for kind in request.headers.getlist(TURN_TYPE))
        if main and request.scope[AUTHENTICATED]:
            # The model server may refuse other callers. Its metrics show those that it serves.
            self._service.users.asked()
        refused = "" if self._service.settings.http.capture else "off"
        taking: ChatRequest | Refusal | None = None
        if refused or not main:
            taking = Refusal(word=refused if main else "side")
        if taking is None and request.scope[AUTHENTICATED]:
            taking = await anyio.to_thread.run_sync(parse_request, body)
        source = self._caller(request)
        return ProxiedResponse(
            self._service, self._capture, request, body=body, taking=taking, source=source, is_chat=True
        )

    def _caller(self, request: Request) -> str:
        """Return a name for the caller: a keyed digest of its credential, which does not reveal it."""
        given = request.headers.get("authorization", "").encode()
        return f"caller-{hmac.new(self._salt, given, hashlib.sha256).hexdigest()[:12]}"


class ProxiedResponse:
    """An ASGI response that passes one request on and returns the model server's answer."""

    def __init__(
        self,
        service: Service,
        capture: Capture,
        request: Request,
        *,
        body: bytes = b"",
        taking: ChatRequest | Refusal | None = None,
        source: str = "",
        is_chat: bool = False,
    ) -> None:
        """Prepare to pass a request on.

        Args:
            service: The running service.
            capture: The writer of the captured logs.
            request: The user's request.
            body: The request's body.
            taking: The conversation to capture together with the answer, or the reason why it is not
                captured; None if the request is no conversation, or if its body is to be read only when the
                model server has accepted the caller's credential.
            source: Name of the caller, which is used if the request names no user.
            is_chat: Whether the request is a conversation.
        """
        self._model = service.model
        self._capture = capture
        self._request = request
        self._body = body
        self._taking = taking
        self._source = source
        self._is_chat = is_chat
        self._receipt = ""
        self._pieces: list[bytes] = []
        self._size = 0
        self._streamed = self._whole = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and the answer back, until the answer ends or the caller disconnects."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope, name="watch the caller")
                await self._pass(scope, receive, send)
                tasks.cancel_scope.cancel()
        finally:
            if self._receipt:
                self._finish()

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the model server, and send the answer, or status 503 if there is none."""
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
        """Send the answer to the caller as it arrives, and collect it if it is to be captured."""
        status = answer.status_code
        if self._is_chat and self._taking is None and answer.is_success:
            self._taking = await anyio.to_thread.run_sync(parse_request, self._body)
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
            return  # without a last chunk, uvicorn closes the connection, and the caller sees the failure
        self._whole = True
        await send({"type": "http.response.body", "body": b""})

    def _receipt_header(self, status: int) -> Headers:
        """Return the receipt header of an answer with this status; [] if the request is no conversation.

        The header has a new receipt, or "none" and the reason why the exchange is not captured.
        """
        taking = self._taking or (Refusal(word="error") if self._is_chat else None)
        if taking is None:
            return []
        if isinstance(taking, ChatRequest) and not 200 <= status < 300:
            taking = Refusal(word="error")
        if isinstance(taking, Refusal):
            return [(RECEIPT, f"none; {taking.word}".encode())]
        self._receipt = self._capture.begin()
        return [(RECEIPT, self._receipt.encode())]

    def _finish(self) -> None:
        """Queue the exchange to be captured, or record the reason why it is not."""
        if self._size > MAX_RAW:
            self._capture.refuse(self._receipt, "long")
        elif not (self._whole or self._streamed):  # the text of a stream itself shows whether it is complete
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
    """Cancel the scope when the caller disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _kept(headers: Iterable[tuple[bytes, bytes]], without: frozenset[str]) -> Headers:
    """Return the headers to pass on, with names in lower case.

    Headers in `without` are left out, and so are those that a Connection header names.
    """
    lowered = [(name.lower(), value) for name, value in headers]
    named = [value.decode("latin-1") for name, value in lowered if name == b"connection"]
    dropped = without | {word.strip().lower() for value in named for word in value.split(",")}
    return [(name, value) for name, value in lowered if name.decode("latin-1") not in dropped]
