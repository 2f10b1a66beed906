"""Detection of users' activity on a user's own vLLM, from the metrics of that vLLM.

Users may send requests to such a vLLM directly, so the service does not see these requests itself.

Invariant: a request of the service never counts as a user's request, even if a sample is taken while it runs.
The price: a user's request that runs beside a batch of our requests may be noticed only when the batch ends.
This module knows nothing about the schedule.
"""

from dataclasses import dataclass

import anyio

from corpus.errors import ModelUnavailable
from loop.engine.service import Service

SAMPLE_S, TRAINING_SAMPLE_S = 1.0, 0.2
"""Seconds between two samples: usually, and while an update trains, because training must yield soon."""


@dataclass(frozen=True, kw_only=True)
class MetricsSample:
    """The server's metrics at one moment, with the counts of the service's own ("our") requests."""

    busy: float
    """Number of requests that run or wait at the server."""
    finished: float
    """Number of requests that the server has finished since it started."""
    tokens: float
    """Number of tokens that the server has read and generated since it started."""
    ours: int
    """Number of our requests that were in flight when the sample began, or that began during the sample."""
    begun: int
    """Number of our requests that had begun, in all, by the end of the sample."""
    quiet: bool
    """Whether no request of ours was in flight during the sample."""


def user_seen(base: MetricsSample | None, before: MetricsSample | None, now: MetricsSample) -> bool:
    """Return whether the samples show a request that is not one of ours; False without earlier samples.

    Args:
        base: The sample from which finished requests are counted: usually the newest quiet one.
        before: The sample before `now`.
        now: The newest sample. A restarted server counts finished requests from 0 again: then return False.
    """
    if base is None or before is None or now.finished < base.finished:
        return False
    ours = before.ours + now.begun - before.begun
    # vLLM updates its gauges only when its engine makes a step. Until then a cancelled request stays in them.
    fresh = (now.busy, now.tokens, now.finished) != (before.busy, before.tokens, before.finished)
    ours_since = now.begun - base.begun + (0 if base.quiet else base.ours)
    return (now.busy > ours and fresh) or now.finished - base.finished > ours_since


async def watch_users(service: Service) -> None:
    """Record each time that a user is active, until cancelled; return at once if the server is managed."""
    base: MetricsSample | None = None
    before: MetricsSample | None = None
    while not service.processes.server.managed:
        await service.processes.ready.wait()
        try:
            now = await _sample(service)
        except ModelUnavailable:  # the vLLM has gone; the process supervisor handles that
            base = before = None
        else:
            if user_seen(base, before, now):
                service.users.asked()
                base = None
            # Two quiet samples are needed, because vLLM may count a finished request only after its answer.
            still = before is not None and before.quiet and now.quiet and before.begun == now.begun
            if base is None or still or now.finished < base.finished:
                base = now
            before = now
        await anyio.sleep(TRAINING_SAMPLE_S if service.worker.kind == "train" else SAMPLE_S)


async def _sample(service: Service) -> MetricsSample:
    """Return the server's present metrics, with the counts of our own requests."""
    model = service.model
    in_flight, begun = model.in_flight, model.started
    metrics = await model.metrics()
    return MetricsSample(
        busy=metrics.get("vllm:num_requests_running", 0.0) + metrics.get("vllm:num_requests_waiting", 0.0),
        finished=metrics.get("vllm:request_success_total", 0.0),
        tokens=metrics.get("vllm:prompt_tokens_total", 0.0)
        + metrics.get("vllm:generation_tokens_total", 0.0),
        ours=in_flight + model.started - begun,
        begun=model.started,
        quiet=in_flight == 0 and model.started == begun,
    )
