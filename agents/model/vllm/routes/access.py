"""The access rules of the routes outside /v1, where vLLM does not check API keys; they change what is served.

If vLLM has API keys, a request must give one of them, as under /v1. Without API keys, vLLM must listen on
this machine only, and a request must come from this machine; requests of web pages from elsewhere are
refused, even if a browser on this machine sends them. The home's token is accepted in every case.

Invariant: a request that no rule admits is refused with a reason. The time of a comparison does not depend on
the keys. This module knows nothing about vLLM or the content of a request.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_FORWARDED = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})
"""Headers in which a proxy names the client of a request."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """The settings of one vLLM that decide which requests are admitted."""

    keys: tuple[str, ...] = field(repr=False)
    """The API keys of vLLM."""
    token: str = field(repr=False)
    """The token of the home; "" if it has none."""
    loopback: bool
    """Whether vLLM can be reached from this machine only."""


def only_loopback(host: str | None, uds: str | None) -> bool:
    """Return whether vLLM can be reached from this machine only.

    Args:
        host: vLLM's option --host; None listens on all interfaces.
        uds: vLLM's option --uds, the path of a unix socket; None for no socket.
    """
    return bool(uds) or (bool(host) and _is_loopback(host))


def refusal(access: Access, headers: Sequence[tuple[str, str]]) -> tuple[int, str] | None:
    """Return the HTTP status and the reason with which a request is refused; None if it is admitted.

    Args:
        access: The settings of this vLLM.
        headers: The names (in lower case) and values of the request's headers.
    """
    if _matches(_bearer(headers), (*access.keys, access.token)):
        return None
    if access.keys:
        return (
            401,
            "Give the API key that vLLM was started with, or the home's token: Authorization: Bearer KEY.",
        )
    if not access.loopback:
        return 403, (
            "This vLLM listens to other machines and has no API key: start it with --api-key KEY or with "
            "--host 127.0.0.1, or give the home's token (Authorization: Bearer TOKEN)."
        )
    hosts = _values(headers, "host")
    if len(hosts) != 1 or not _is_loopback(_name(f"//{hosts[0]}")):
        return 403, "Without a key this Host is refused; use 127.0.0.1, or start vLLM with --api-key."
    if not all(_is_loopback(_name(origin)) for origin in _values(headers, "origin")):
        return 403, "Requests from web pages of other machines are refused (Origin)."
    if any(name in _FORWARDED for name, _ in headers):
        return 403, "Requests that come through a proxy need a key: start vLLM with --api-key."
    return None


def _bearer(headers: Sequence[tuple[str, str]]) -> str:
    """Return the request's bearer key; "" if it has none, or several Authorization headers."""
    values = _values(headers, "authorization")
    scheme, _, key = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return key.strip() if scheme.lower() == "bearer" else ""


def _matches(given: str, keys: Sequence[str]) -> bool:
    """Return whether `given` is one of the keys; an empty key never matches."""
    digest = _digest(given)
    # All keys are compared, even after a match, so that the time tells nothing.
    matches = [bool(key) and hmac.compare_digest(digest, _digest(key)) for key in keys]
    return any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _values(headers: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for known, value in headers if known == name]


def _name(url: str) -> str:
    """Return the host name in a URL; "" if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str | None) -> bool:
    """Return whether this is `localhost` or a loopback address."""
    if not name or name.lower() == "localhost":
        return bool(name)
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
