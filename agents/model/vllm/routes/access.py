"""Who may ask the routes on vLLM that change what is served: vLLM's own check of keys does not cover them.

With an API key on vLLM that key is needed, as under /v1. Without one only this machine may ask, and only when vLLM
listens nowhere else; a web page that its user has open there is not this machine. The home's token is good everywhere.

Invariant: whatever is not let in by one of these rules is refused with a sentence; keys are compared in a time that
does not depend on them. Knows neither vLLM nor what is asked for.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_FORWARDED = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})
"""Headers by which a proxy says that somebody else asks."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """How one vLLM was started, as far as it matters here."""

    keys: tuple[str, ...] = field(repr=False)
    """Its API keys."""
    token: str = field(repr=False)
    """The home's; "" when it cannot be read."""
    loopback: bool
    """Whether only this machine can reach it."""


def only_loopback(host: str | None, uds: str | None) -> bool:
    """Whether vLLM's --host and --uds let only this machine in; no host is every interface."""
    return bool(uds) or (bool(host) and _is_loopback(host))


def refusal(access: Access, headers: Sequence[tuple[str, str]]) -> tuple[int, str] | None:
    """Status and sentence for a request with these headers (names in lower case); None when it may come in."""
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
        return 403, "This Host is not served here without a key; use 127.0.0.1, or start vLLM with --api-key."
    if not all(_is_loopback(_name(origin)) for origin in _values(headers, "origin")):
        return 403, "Requests from web pages of other machines are refused (Origin)."
    if any(name in _FORWARDED for name, _ in headers):
        return 403, "Requests that come through a proxy need a key: start vLLM with --api-key."
    return None


def _bearer(headers: Sequence[tuple[str, str]]) -> str:
    """What the request gives as a key; "" for nothing, or for more than one thing."""
    given = _values(headers, "authorization")
    scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return key.strip() if scheme.lower() == "bearer" else ""


def _matches(given: str, keys: Sequence[str]) -> bool:
    """Whether this is one of the keys; an empty one is none."""
    digest = _digest(given)
    found = [bool(key) and hmac.compare_digest(digest, _digest(key)) for key in keys]
    return any(found)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _values(headers: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for known, value in headers if known == name]


def _name(url: str) -> str:
    """The host's name in a URL; "" where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str | None) -> bool:
    """Whether this is a name or an address by which a machine calls itself."""
    if not name or name.lower() == "localhost":
        return bool(name)
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
