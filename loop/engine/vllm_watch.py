"""Whether a user's own vLLM still answers: its process may run although its engine is stuck.

The service never restarts such a vLLM. It reports what is wrong, lets its nights wait, and continues when the
vLLM answers.

Invariant: a vLLM that works is never called stuck. It counts as stuck only if it owes answers and its
counters of tokens and requests have not changed for STUCK_S, or if it fails to answer the request for its
metrics MISSED times in a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

import anyio

from agents.model.client import ModelClient
from agents.model.patience import COUNTERS
from corpus.errors import ModelUnavailable

LOOK_S, ANSWER_S = 2.0, 30.0
"""Seconds between two looks at a vLLM, and the longest wait for its answer to a request for one token."""
SILENT_S, MISSED = 10.0, 3
"""Longest wait for its metrics, and the number of missing ones in a row from which it is stuck."""
STUCK_S = 120.0
"""Seconds without progress, with requests under way, from which a vLLM is stuck: a long prompt is counted
when it has been read, and no sooner."""
_DONE = (*COUNTERS, "vllm:request_success_total")
_BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_PROBE = [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """What a vLLM's metrics say of its work."""

    busy: float
    """Requests that run or wait."""
    done: tuple[float, ...]
    """Tokens read and generated, and requests finished, since it started; () if it does not count tokens."""


def pulse_of(metrics: Mapping[str, float]) -> Pulse:
    """Return what these metrics say of the work."""
    counts = any(name in metrics for name in COUNTERS)
    done = tuple(metrics.get(name, 0.0) for name in _DONE) if counts else ()
    return Pulse(busy=sum(metrics.get(name, 0.0) for name in _BUSY), done=done)


def stands_still(before: Pulse | None, now: Pulse) -> bool:
    """Return whether requests are under way and nothing was done between two looks."""
    return before is not None and bool(now.done) and now.busy > 0 and now.done == before.done


async def wait_stuck(model: ModelClient) -> None:
    """Return when the vLLM is stuck."""
    before, since, missed = None, monotonic(), 0
    while missed < MISSED and monotonic() - since < STUCK_S:
        now = await _look(model)
        missed = 0 if now is not None else missed + 1
        if now is None or not stands_still(before, now):
            since = monotonic()
        before = now
        await anyio.sleep(LOOK_S)


async def answers(model: ModelClient) -> bool:
    """Return whether the vLLM answers a request for one token, or at least works on others meanwhile."""
    before = await _look(model)
    with anyio.move_on_after(ANSWER_S):
        try:
            await model.chat(_PROBE, temperature=0.0, max_tokens=1)
        except ModelUnavailable:  # a refusal is an answer, too, as long as the server is there
            return await model.health()
        return True
    now = await _look(model)
    return before is not None and now is not None and now.done != before.done


async def _look(model: ModelClient) -> Pulse | None:
    """Return what the vLLM's metrics say; None if it does not say it in time."""
    with anyio.move_on_after(SILENT_S):
        try:
            return pulse_of(await model.metrics())
        except ModelUnavailable:
            return None
    return None
