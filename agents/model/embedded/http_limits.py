"""Limits on the connections of our HTTP servers: how many there are, and how long each may say nothing.

Invariant: a connection that sends no whole request is closed, after HEAD_S for its head and BODY_S for its
body; uvicorn itself closes one that is idle after an answer. Connections over MAX_CONNECTIONS, or over
what the process's descriptors allow, are closed at once, so that descriptors are left for files. Answers
take as long as they take. This module does not know what is served.
"""

import asyncio
import resource
from typing import Any

HEAD_S = 10.0
"""Seconds within which the head of a request has to be there, from the opening of the connection."""
BODY_S = 60.0
"""Seconds within which the body of a request has to be there, from its head."""
MAX_HEAD_BYTES = 64 * 1024
"""Longest head of a request."""
MAX_CONNECTIONS = 512
"""Most connections of one server at once."""
SHARE = 4
"""One of so many descriptors may be a connection."""


def most_connections() -> int:
    """Return how many connections one server of this process may have at once."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, soft // SHARE))


def backlog() -> int:
    """Return how many connections may wait to be accepted, and are accepted at once.

    asyncio accepts this many connections in a row before a protocol can refuse one, and it logs each attempt
    for which no descriptor is left. With a long backlog, all descriptors were used up, and then the logging
    blocked the event loop.
    """
    return max(4, most_connections() // 4)


def bounded_protocol() -> type[asyncio.Protocol]:
    """Return uvicorn's protocol for HTTP, with these limits."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Bounded(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # chosen when uvicorn is loaded
        """A connection that is closed when it keeps the server waiting."""

        _alarm: asyncio.TimerHandle | None = None
        _awaits = ""
        """What the alarm waits for: "head" or "body"; "" while it is off."""

        def connection_made(self, transport: Any) -> None:
            """Take a connection, unless there are too many."""
            super().connection_made(transport)
            if len(self.connections) > most_connections():
                transport.abort()
            else:
                self._wait_for("head")

        def data_received(self, data: bytes) -> None:
            """Take data, and wait for what is still missing."""
            super().data_received(data)
            cycle = self.cycle
            if cycle is None or cycle.response_complete:
                self._wait_for("head")
            else:
                self._wait_for("body" if cycle.more_body else "")

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget a connection."""
            self._wait_for("")
            super().connection_lost(exc)

        def _wait_for(self, what: str) -> None:
            """Close the connection if this is not there in time; what is waited for already goes on."""
            if what == self._awaits:
                return
            if self._alarm is not None:
                self._alarm.cancel()
            self._awaits, self._alarm = what, None
            if what:
                seconds = HEAD_S if what == "head" else BODY_S
                self._alarm = self.loop.call_later(seconds, self._give_up)

        def _give_up(self) -> None:
            """Close the connection."""
            if not self.transport.is_closing():
                self.transport.abort()

    return Bounded
