"""The salt of vLLM's prefix cache: keys and values that other weights made are not found any more.

vLLM keeps what it has computed of a prompt and goes on from there when another begins alike. After an update that
would answer with the old weights' reading of the prompt, so every request is salted with the version of the
weights, in the engine, where all requests come by whatever way they came in; a user's own salt counts as well.

The salt changes at once when an update starts, ends or is undone. Between, weights change with every step, and a
salt a step would mean that no prefix is ever found: then it changes every `salt_seconds` only. So in mid-update a
reader gets a hogwild mix: its pass may have read some matrices before a step and others after it, and go on from a
prefix that is up to `salt_seconds` older than they are. Between updates, and so in every evaluation, it gets whole
weights and nothing else.

Invariant: a salt that was used under some weights is never used again under others: the version only grows while
the mapping lives, and the salt names the mapping too, for prefixes may be kept outside of vLLM. Knows neither
torch nor what is in a request.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from agents.model.vllm.configured import Configured
from agents.model.vllm.place import Place
from agents.model.weights.header import Header, WeightsState

Part = Callable[[Any], str]
"""(vLLM's `EngineCoreRequest`) -> what else its prefixes depend on; "" for nothing."""
_MARK = "_nightschool_salt"
_parts: list[Part] = []


def add_part(part: Part) -> None:
    """Have something more count: two requests share prefixes only where this says the same of both."""
    if part not in _parts:
        _parts.append(part)


@dataclass(frozen=True, kw_only=True)
class Salt:
    """The salt in use."""

    words: WeightsState
    """The header when it was taken."""
    at: float
    """When it was taken, in seconds by the monotonic clock."""


def salt_for(before: Salt | None, words: WeightsState, *, at: float, seconds: float) -> Salt:
    """The salt for a request that comes at `at`, when the header says `words`; pure."""
    if before is not None:
        same_state = (words.dirty, words.holds) == (before.words.dirty, before.words.holds)
        in_update = words.dirty and not words.holds
        unchanged = words.version == before.words.version
        if same_state and (unchanged or (in_update and at - before.at < seconds)):
            return before
    return Salt(words=words, at=at)


def joined(*parts: str) -> str | None:
    """One salt of several, different whenever one of them is; None when all are empty."""
    return json.dumps(parts) if any(parts) else None


class Salter:
    """Says which salt the weights ask for now."""

    def __init__(self, mapping: Path, seconds: float) -> None:
        self._mapping = mapping
        self._seconds = seconds
        self._header: Header | None = None
        self._name = ""
        self._salt: Salt | None = None

    def now(self) -> str:
        """The salt; "" while there is no mapping."""
        if self._header is None:
            try:
                self._name = str(self._mapping.with_suffix(".json").stat().st_mtime_ns)
                self._header = Header(self._mapping)
            except FileNotFoundError:
                return ""
        self._salt = salt_for(self._salt, self._header.state, at=monotonic(), seconds=self._seconds)
        words = self._salt.words
        return f"{self._name}.{words.version}.{int(words.dirty)}.{words.holds}"


def install(found: Configured) -> None:
    """Salt every request that reaches vLLM's engine."""
    from vllm.v1.request import Request

    if hasattr(Request, _MARK):
        return
    setattr(Request, _MARK, True)
    salter = Salter(Place(found.home.served_dir).mapping, found.model.salt_seconds)
    receive = Request.from_engine_core_request

    def from_engine_core_request(request: Any, *more: Any, **named: Any) -> Any:
        parts = [part(request) for part in _parts]
        request.cache_salt = joined(salter.now(), *parts, request.cache_salt or "")
        return receive(request, *more, **named)

    Request.from_engine_core_request = staticmethod(from_engine_core_request)
