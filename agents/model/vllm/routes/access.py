"""Access rules of the routes that change what is served, which vLLM's own check of keys does not cover.

If vLLM has an API key, that key is required, as under /v1. Without one, requests must come from this machine,
and vLLM must listen nowhere else; a web page that is open in a browser there does not count as this machine.
The home's token is accepted everywhere.

Invariant: a request that no rule admits is refused with a reason, and keys are compared in a time that does
not depend on them. This module knows nothing about vLLM or the content of a request.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_FORWARDED = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})
"""Headers by which a proxy names another client."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """The options of one vLLM that decide who has access."""

    keys: tuple[str, ...] = field(repr=False)
    """The API keys of vLLM."""
    token: str = field(repr=False)
    """The token of the home; "" if it has none."""
    loopback: bool
    """Whether only this machine can reach it."""


def only_loopback(host: str | None, uds: str | None) -> bool:
    """Return whether vLLM's --host and --uds admit only this machine; no host means every interface."""
    return bool(uds) or (bool(host) and _is_loopback(host))


def refusal(access: Access, headers: Sequence[tuple[str, str]]) -> tuple[int, str] | None:
    """Return status and reason for a request with these headers (names in lower case); None to admit it."""
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
    """Return the key that the request gives; "" for none, or for more than one header."""
    values = _values(headers, "authorization")
    scheme, _, key = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return key.strip() if scheme.lower() == "bearer" else ""


def _matches(given: str, keys: Sequence[str]) -> bool:
    """Return whether this is one of the keys; an empty key matches nothing."""
    digest = _digest(given)
    matches = [bool(key) and hmac.compare_digest(digest, _digest(key)) for key in keys]  # all: constant time
    return any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _values(headers: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for known, value in headers if known == name]


def _name(url: str) -> str:
    """Return the host in a URL; "" for none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str | None) -> bool:
    """Return whether this is a name or an address of the machine itself."""
    if not name or name.lower() == "localhost":
        return bool(name)
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
