"""The salt of vLLM's prefix cache, which keeps vLLM from reusing keys and values that other weights computed.

vLLM keeps the keys and values of a prompt, and reuses them for another prompt with the same beginning (the
prefix). After an update they would be those of the old weights. So every request gets a salt that names the
version of the weights, and vLLM reuses a prefix only for requests with the same salt. The salt is added in
the engine, because requests of all routes pass there. A user's own salt counts as well.

The salt changes at once when an update starts, ends or is undone. Within an update the weights change with
every step. With a salt for each step no prefix would ever be reused, so within an update the salt changes
only every `salt_seconds`. An answer in that time may come from mixed weights: a forward pass may read some
matrices before a step and others after it, and may continue a prefix that is up to `salt_seconds` older.
Between updates, and so in every evaluation, the weights are not mixed.

Invariant: a salt that was used with some weights is never used with others. The version only grows while the
shared weights exist. Prefixes may be kept outside of vLLM for longer, so the salt also names the shared
weights. Within an update, `salt_seconds` is the only exception. This module knows nothing about torch or the
content of a request.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from agents.model.vllm.config import PluginConfig
from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.header import Header, WeightsState

SaltPart = Callable[[Any], str]
"""A function that takes vLLM's `EngineCoreRequest` and returns a text for something else that its prefixes
depend on; "" for nothing."""
_MARK = "_nightschool_salt"
_parts: list[SaltPart] = []


def add_part(part: SaltPart) -> None:
    """Add a part to every salt: two requests share prefixes only if `part` returns the same for both."""
    if part not in _parts:
        _parts.append(part)


@dataclass(frozen=True, kw_only=True)
class Salt:
    """The weights' part of a salt."""

    state: WeightsState
    """The state of the shared weights when the salt was made."""
    at: float
    """The time when the salt was made, in seconds of the monotonic clock."""


def salt_for(before: Salt | None, state: WeightsState, *, at: float, seconds: float) -> Salt:
    """Return the salt for a new request: `before` if it still holds for these weights, else a new salt.

    Args:
        before: The salt of the request before; None for the first request.
        state: The current state of the shared weights.
        at: The current time, in seconds of the monotonic clock.
        seconds: The longest time for which a salt is used within an update.
    """
    if before is not None:
        same_state = (state.dirty, state.holds) == (before.state.dirty, before.state.holds)
        in_update = state.dirty and not state.holds
        unchanged = state.version == before.state.version
        if same_state and (unchanged or (in_update and at - before.at < seconds)):
            return before
    return Salt(state=state, at=at)


def join_salts(*parts: str) -> str | None:
    """Return one salt that differs whenever one of the parts differs; None if all parts are empty."""
    return json.dumps(parts) if any(parts) else None


class WeightsSalt:
    """The source of the current salt of one home's shared weights."""

    def __init__(self, weights_file: Path, seconds: float) -> None:
        self._weights_file = weights_file
        self._seconds = seconds
        self._header: Header | None = None
        self._name = ""
        self._salt: Salt | None = None

    def current(self) -> str:
        """Return the current salt; "" while no weights are shared."""
        if self._header is None:
            try:
                self._name = str(self._weights_file.with_suffix(".json").stat().st_mtime_ns)
                self._header = Header(self._weights_file)
            except FileNotFoundError:
                return ""
        self._salt = salt_for(self._salt, self._header.state, at=monotonic(), seconds=self._seconds)
        state = self._salt.state
        return f"{self._name}.{state.version}.{int(state.dirty)}.{state.holds}"


def install(config: PluginConfig) -> None:
    """Wrap the function with which vLLM's engine takes a request, so that every request is salted."""
    from vllm.v1.request import Request

    if hasattr(Request, _MARK):
        return
    setattr(Request, _MARK, True)
    salt = WeightsSalt(ServedDirectory(config.home.served_dir).weights_file, config.model.salt_seconds)
    receive = Request.from_engine_core_request

    def from_engine_core_request(request: Any, *more: Any, **named: Any) -> Any:
        parts = [part(request) for part in _parts]
        request.cache_salt = join_salts(salt.current(), *parts, request.cache_salt or "")
        return receive(request, *more, **named)

    Request.from_engine_core_request = staticmethod(from_engine_core_request)
