"""The middleware of all our HTTP servers: it checks who may send a request, from where, and how much.

It is pure ASGI. A bearer token alone does not keep a web page from sending requests to a server on the same
machine (the browser sends first and checks later), and a Host check alone let a cross-site request through
when tried. So token, Host and Origin are all checked.

The app forwards requests on some paths to another server, which checks credentials itself. On these paths the
middleware also admits a credential that is not our token, and AUTHENTICATED tells the app that it is not.
Host and Origin are checked there too, and a request must carry some credential.

A second token opens only the paths of chats and of their receipts.

Invariant: the app sees no request that failed a check, and no body over the limit. This module knows no route
but `/health`, which it answers itself: the answer says only that a server listens here.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from corpus.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""The names by which a machine reaches itself."""
SOCKET_HOST = "nightschool"
"""The Host header that our clients send over a unix socket, because a socket has no host name."""
AUTHENTICATED = "nightschool.own"
"""Key in a request's ASGI scope; its value is whether the request carried our token."""
MAX_BODY_BYTES = 16 * 1024 * 1024
"""Longest body: enough for some 4,000 conversations of 4 kB, which is far more than one batch."""


LARGE_BYTES, MAX_LARGE = 1024 * 1024, 8
"""Bytes from which a body is large, and the most requests with such a body at once: they take memory."""


def server_config(app: "AuthMiddleware") -> "uvicorn.Config":
    """Return Uvicorn's settings for this application: no proxy header is trusted, no Server header sent."""
    import uvicorn

    from agents.model.embedded.http_limits import MAX_HEAD_BYTES, backlog, bounded_protocol

    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
        http=bounded_protocol(),
        backlog=backlog(),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


class AuthMiddleware:
    """Middleware that passes a request on to `app` only if the request passes all checks."""

    def __init__(
        self,
        app: App,
        *,
        token: str,
        port: int | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        external_auth_paths: frozenset[str] = frozenset(),
        chat_token: Callable[[], str] = lambda: "",
        chat_paths: tuple[str, ...] = (),
    ) -> None:
        """Protect `app`.

        Args:
            app: The application.
            token: Our bearer token, which requests must carry.
            port: The TCP port on loopback; None for a unix socket, which no web page can reach.
            max_body_bytes: The longest body of a request.
            external_auth_paths: Paths that the app forwards to a server that checks credentials itself.
            chat_token: Returns the token that opens `chat_paths` alone, as it is now; "" for none.
            chat_paths: The beginnings of the paths that it opens.
        """
        if len(token) < 16:
            raise ConfigError("a bearer token of fewer than 16 characters can be guessed; make a longer one")
        self._app = app
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes
        self._external_auth_paths = external_auth_paths
        self._chat_token, self._chat_paths = chat_token, chat_paths
        self._large = 0
        ports = ("",) if port is None else ("", f":{port}")
        self._hosts = frozenset(name + suffix for name in (*LOOPBACK, SOCKET_HOST) for suffix in ports)
        self._origins = frozenset(f"http://{name}:{port}" for name in LOOPBACK if port is not None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request; then pass it on to the app, or answer it with the refusal."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal := self._refusal(scope):
            await _answer(send, *refusal)
        elif _asks_health(scope):
            await _reply(send, 200, {"status": "ok"})
        else:
            await self._call_app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return the HTTP status and the sentence for a request that fails a check; None if it passes."""
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 403, "This Host is not served here; use 127.0.0.1 or the unix socket."
        origins = _values(scope, b"origin")
        if any(origin not in self._origins for origin in origins):
            return 403, "Requests from other web pages are refused (Origin)."
        scope[AUTHENTICATED] = False
        if _asks_health(scope):
            return None
        given = _values(scope, b"authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        own = scheme.lower() == "bearer" and self._opens(token.strip().encode("latin-1"), scope["path"])
        scope[AUTHENTICATED] = own
        if not own and not (scheme and scope["path"] in self._external_auth_paths):
            if scheme.lower() != "bearer":
                return (
                    401,
                    "Give the token: Authorization: Bearer TOKEN (the file token in the home holds it).",
                )
            return 401, "This token is wrong (the file token in the home holds the right one)."
        declared = _values(scope, b"content-length")
        if any(not length.isdigit() or int(length) > self._max_body_bytes for length in declared):
            return 413, self._too_large()
        return None

    def _opens(self, given: bytes, path: str) -> bool:
        """Return whether a token opens a path: ours opens all, that for chats some."""
        if hmac.compare_digest(given, self._token):
            return True
        chat = self._chat_token().encode() if path.startswith(self._chat_paths or ("\0",)) else b""
        return bool(chat) and hmac.compare_digest(given, chat)

    def _too_large(self) -> str:
        """Return the error message for a body over the limit."""
        return f"The body is longer than {self._max_body_bytes} bytes; send less at once."

    async def _call_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app, unless too many requests with large bodies are under way."""
        if not _is_large(scope):
            await self._call_counted(scope, receive, send)
            return
        if self._large >= MAX_LARGE:
            await _answer(send, 503, "Too many long requests at once; try again in a moment.")
            return
        self._large += 1
        try:
            await self._call_counted(scope, receive, send)
        finally:
            self._large -= 1

    async def _call_counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app, and refuse the request if its body grows over the limit.

        The bytes are counted as they arrive, because a chunked body declares no length.
        """
        seen, started, refused = 0, False, False

        async def counted() -> AsgiMessage:
            nonlocal seen, refused
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body_bytes:
                refused = True
                raise _TooLarge
            return message

        async def watched(message: AsgiMessage) -> None:
            nonlocal started
            if refused and not started:
                # This is the app's response to our exception; the client gets ours below.
                return
            started = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLarge:
            pass
        if refused and not started:
            await _answer(send, 413, self._too_large())


class _TooLarge(Exception):
    """The body exceeded the limit while the app read it."""


def _is_large(scope: Scope) -> bool:
    """Return whether a request declares a large body, or one of unknown length."""
    declared = _values(scope, b"content-length")
    return bool(_values(scope, b"transfer-encoding")) or any(int(length) > LARGE_BYTES for length in declared)


def _asks_health(scope: Scope) -> bool:
    """Return whether a request asks for /health; no other request passes without a token."""
    return scope["path"] == "/health" and scope["method"] in ("GET", "HEAD")


def _values(scope: Scope, name: bytes) -> list[str]:
    """Return all values that the request has for the header `name` (in lower case)."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


async def _answer(send: Send, status: int, sentence: str) -> None:
    """Send a response with an error in OpenAI's format."""
    await _reply(send, status, {"error": {"message": sentence, "type": "access_error", "code": status}})


async def _reply(send: Send, status: int, value: object) -> None:
    """Send a response with this value as JSON."""
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
