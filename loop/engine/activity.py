"""Users' activity on a user's own vLLM, whose users need not come through us: read from its metrics.

Invariant: our own requests never count as a user's, whenever a sample falls between request and answer. So a
user's request beside a batch of ours may be noticed only when the batch ends. This module knows nothing about
the schedule.
"""

from dataclasses import dataclass

import anyio

from corpus.errors import ModelUnavailable
from loop.engine.service import Service

SAMPLE_S, TRAINING_SAMPLE_S = 1.0, 0.2
"""Between two samples: usually, and while an update trains, which must yield to users soon."""


@dataclass(frozen=True, kw_only=True)
class MetricsSample:
    """The server's metrics at one moment, beside our own requests."""

    busy: float
    """Requests that run or wait at the server."""
    finished: float
    """Requests that it has finished since it started."""
    tokens: float
    """Tokens that it has read and generated since it started."""
    ours: int
    """Our requests that were in flight when the sample began, or were begun during it."""
    begun: int
    """Requests of ours that were ever begun, when the sample ended."""
    quiet: bool
    """Whether none of ours was in flight throughout."""


def user_seen(base: MetricsSample | None, before: MetricsSample | None, now: MetricsSample) -> bool:
    """Return whether a user was active between two samples.

    Args:
        base: The last quiet sample, or an earlier one.
        before: The sample before this one.
        now: This sample. A server that was restarted has forgotten what it finished.
    """
    if base is None or before is None or now.finished < base.finished:
        return False
    ours = before.ours + now.begun - before.begun
    # The gauges are updated only by a step of the engine: a request that was broken off stays in them till
    # then.
    fresh = (now.busy, now.tokens, now.finished) != (before.busy, before.tokens, before.finished)
    ours_since = now.begun - base.begun + (0 if base.quiet else base.ours)
    return (now.busy > ours and fresh) or now.finished - base.finished > ours_since


async def watch_users(service: Service) -> None:
    """Record when users are active, until cancelled; return at once if the server is managed."""
    base: MetricsSample | None = None
    before: MetricsSample | None = None
    while not service.processes.server.managed:
        await service.processes.ready.wait()
        try:
            now = await _sample(service)
        except ModelUnavailable:  # it has gone: the supervisor notices by itself
            base = before = None
        else:
            if user_seen(base, before, now):
                service.users.asked()
                base = None
            # Two quiet samples: the count of finished requests may lag behind the answer.
            still = before is not None and before.quiet and now.quiet and before.begun == now.begun
            if base is None or still or now.finished < base.finished:
                base = now
            before = now
        await anyio.sleep(TRAINING_SAMPLE_S if service.worker.kind == "train" else SAMPLE_S)


async def _sample(service: Service) -> MetricsSample:
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
