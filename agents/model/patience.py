"""Waiting for a model that may need minutes: as long as it makes progress, and no longer.

Invariant: an answer that arrives is never lost to a time limit, and a server that does nothing is given up.
This module knows nothing about HTTP.
"""

from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import TypeVar

import anyio

T = TypeVar("T")

COUNTERS = ("nightschool_tokens_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")
"""Metrics that grow with every token that a server reads or generates: the embedded server's, and vLLM's."""


def progress_of(metrics: Mapping[str, float]) -> float:
    """Return a number that grows while the server with these metrics works; 0 if the metrics do not say."""
    return sum(metrics.get(name, 0.0) for name in COUNTERS)


async def patiently(
    request: Callable[[], Awaitable[T]],
    progress: Callable[[], Awaitable[float]],
    *,
    limit: float,
    every: float,
) -> T:
    """Return the request's result; raise `TimeoutError` once there was no progress for a while.

    Args:
        request: Makes the request.
        progress: Returns a number that changes while the server works. An error counts as no progress.
        limit: Longest time without progress, in seconds.
        every: Seconds between two looks at the progress, and the longest wait for one.
    """
    results: list[T] = []
    errors: list[Exception] = []

    async def watch() -> None:
        last, since = 0.0, monotonic()
        while monotonic() - since <= limit:
            await anyio.sleep(every)
            now = await _looked(progress, every, last)
            if now != last:
                last, since = now, monotonic()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, name="watch the model's progress")
        try:
            results.append(await request())
        except Exception as error:  # the group would wrap it
            errors.append(error)
        tasks.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no progress for {limit:g} s")
    return results[0]


async def _looked(progress: Callable[[], Awaitable[float]], longest: float, last: float) -> float:
    """Return the progress, or `last` if it cannot be known within `longest` seconds."""
    with anyio.move_on_after(longest):
        try:
            return await progress()
        except Exception:  # whatever is wrong with the answer, it shows no progress
            return last
    return last
