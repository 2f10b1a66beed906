"""Access to the routes that change what is served, by key, by token or from this machine alone."""

from dataclasses import replace

import pytest

from agents.model.vllm.routes.access import Access, only_loopback, refusal

HOST = ("host", "127.0.0.1:8000")
OPEN = Access(keys=(), token="the-homes-own-token", loopback=True)
KEYED = replace(OPEN, keys=("first key", "second"))
PUBLIC = replace(OPEN, loopback=False)


def status(access: Access, *headers: tuple[str, str]) -> int:
    refused = refusal(access, headers)
    assert refused is None or refused[1].endswith(".")
    return refused[0] if refused else 200


def bearer(key: str) -> tuple[str, str]:
    return "authorization", f"Bearer {key}"


@pytest.mark.parametrize("key", ["first key", "second", "the-homes-own-token"])
def test_an_api_key_or_the_homes_token_is_accepted_from_anywhere(key: str) -> None:
    for loopback in (True, False):
        access = replace(KEYED, loopback=loopback)
        assert status(access, ("host", "example.com"), bearer(key)) == 200
        assert status(access, ("host", "example.com"), ("authorization", f"bEARER {key}")) == 200


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (bearer(""),),
        (bearer("third"),),
        (bearer("first"), bearer("key")),
        (bearer("second"), bearer("second")),
        (("authorization", "Basic second"),),
        (("authorization", "second"),),
        (("x-api-key", "second"),),
    ],
)
@pytest.mark.parametrize("loopback", [True, False])
def test_with_api_keys_nothing_else_is_accepted(headers: tuple[tuple[str, str], ...], loopback: bool) -> None:
    assert status(replace(KEYED, loopback=loopback), HOST, *headers) == 401


def test_a_vllm_that_other_machines_reach_and_that_has_no_key_is_never_open() -> None:
    for headers in (
        [HOST],
        [HOST, bearer("EMPTY")],
        [("host", "example.com")],
        [HOST, ("origin", "http://localhost")],
    ):
        assert status(PUBLIC, *headers) == 403
    refused = refusal(PUBLIC, [HOST])
    assert refused and "--api-key" in refused[1] and "--host 127.0.0.1" in refused[1]
    assert status(PUBLIC, HOST, bearer(OPEN.token)) == 200


def test_an_empty_key_or_token_admits_nobody() -> None:
    for access in (
        replace(PUBLIC, token=""),
        replace(KEYED, token=""),
        replace(KEYED, keys=("", "a"), token=""),
    ):
        assert status(access, HOST, bearer("")) in (401, 403)
        assert status(access, HOST, ("authorization", "Bearer")) in (401, 403)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:1", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.9.9.9"]
)
def test_without_a_key_this_machine_is_admitted_with_any_bearer_token(host: str) -> None:
    assert status(OPEN, ("host", host)) == 200
    assert status(OPEN, ("host", host), bearer("EMPTY"), ("origin", "http://localhost:3000")) == 200


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("host", ""),),
        (("host", "example.com"),),
        (("host", "localhost.example.com"),),
        (("host", "127.0.0.1.example.com:8000"),),
        (("host", "example.com@127.0.0.1.example.com"),),
        (("host", "[::1"),),
        (HOST, HOST),
        (HOST, ("host", "example.com")),
        (HOST, ("origin", "https://example.com")),
        (HOST, ("origin", "null")),
        (HOST, ("origin", "")),
        (HOST, ("origin", "http://localhost"), ("origin", "https://example.com")),
        (HOST, ("x-forwarded-for", "10.1.2.3")),
        (HOST, ("via", "1.1 proxy")),
    ],
)
def test_without_a_key_no_web_page_and_no_proxy_is_admitted(headers: tuple[tuple[str, str], ...]) -> None:
    assert status(OPEN, *headers) == 403


def test_no_host_is_every_interface() -> None:
    assert not only_loopback(None, None) and not only_loopback("", None)
    assert not any(only_loopback(host, None) for host in ("0.0.0.0", "::", "10.0.0.1", "example.com"))
    assert all(only_loopback(host, None) for host in ("127.0.0.1", "localhost", "::1"))
    assert only_loopback(None, "/run/vllm.sock")


def test_keys_are_hidden_when_the_rules_are_printed() -> None:
    assert "second" not in repr(KEYED) and OPEN.token not in repr(KEYED)
