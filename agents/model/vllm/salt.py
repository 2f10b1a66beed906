"""The salt of vLLM's prefix cache, so that keys and values computed by other weights are not reused.

vLLM keeps the keys and values of a prompt and reuses them for a prompt that begins alike. After an update
they would be the old weights', so every request is salted with the version of the weights. That happens in
the engine, which all requests pass, whatever their route; a user's own salt counts as well.

The salt changes at once when an update starts, ends or is undone. Within an update the weights change with
every step, and a salt for each step would mean that no prefix is ever reused: it changes every `salt_seconds`
only. So within an update an answer is a hogwild mix: its pass may read some matrices before a step and others
after it, and continue a prefix that is up to `salt_seconds` older. Between updates, and so in every
evaluation, the weights are whole.

Invariant: a salt that was used with some weights is never used with others. The version only grows while the
shared weights exist, and the salt names them too, for prefixes may be kept outside of vLLM. This module knows
nothing about torch or the content of a request.
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
"""(vLLM's `EngineCoreRequest`) -> what else its prefixes depend on; "" for nothing."""
_MARK = "_nightschool_salt"
_parts: list[SaltPart] = []


def add_part(part: SaltPart) -> None:
    """Add a part to every salt: two requests share prefixes only if the part is the same for both."""
    if part not in _parts:
        _parts.append(part)


@dataclass(frozen=True, kw_only=True)
class Salt:
    """The salt in use."""

    state: WeightsState
    """The header when the salt was made."""
    at: float
    """When it was made, in seconds by the monotonic clock."""


def salt_for(before: Salt | None, state: WeightsState, *, at: float, seconds: float) -> Salt:
    """Return the salt for a request that comes at `at`, when the header holds `state`; pure."""
    if before is not None:
        same_state = (state.dirty, state.holds) == (before.state.dirty, before.state.holds)
        in_update = state.dirty and not state.holds
        unchanged = state.version == before.state.version
        if same_state and (unchanged or (in_update and at - before.at < seconds)):
            return before
    return Salt(state=state, at=at)


def join_salts(*parts: str) -> str | None:
    """Return one salt of several that differs whenever one of them does; None if all are empty."""
    return json.dumps(parts) if any(parts) else None


class WeightsSalt:
    """The current salt of one home's shared weights."""

    def __init__(self, weights_file: Path, seconds: float) -> None:
        self._weights_file = weights_file
        self._seconds = seconds
        self._header: Header | None = None
        self._name = ""
        self._salt: Salt | None = None

    def current(self) -> str:
        """Return the salt; "" while no weights are shared."""
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
    """Wrap vLLM's request, so that every one that reaches the engine is salted."""
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
