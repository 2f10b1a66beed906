"""Whether users are active on a vLLM that they need not ask through us: read from its metrics.

Invariant: what we ask ourselves is no user, however a look falls between our asking and its answering; so a user's
request beside a batch of ours may be noticed as late as at the batch's end. Knows no schedule.
"""

from dataclasses import dataclass

import anyio

from corpus.errors import ModelUnavailable
from loop.engine.service import Service

LOOK_S, ATTEND_S = 1.0, 0.2
"""Between two looks: always, and while an update is trained, which is to yield to users soon."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look showed."""

    busy: float
    """Requests that run or wait at the server."""
    finished: float
    """Requests that it has finished since it started."""
    tokens: float
    """Tokens that it has read and made since it started."""
    ours: int
    """So many answers to us were asked for and had not come when it began, or were asked for meanwhile."""
    begun: int
    """Requests that we had begun, ever, when the look was over."""
    quiet: bool
    """Whether none of ours was in flight throughout."""


def user_seen(base: Look | None, before: Look | None, now: Look) -> bool:
    """Whether a user was active since `before`, the look before this one.

    base: the last quiet look, or an earlier one. A server that has started again has forgotten what it finished.
    """
    if base is None or before is None or now.finished < base.finished:
        return False
    ours = before.ours + now.begun - before.begun
    # The gauges are renewed only when the engine makes a step: a request that was broken off stays in them till then.
    fresh = (now.busy, now.tokens, now.finished) != (before.busy, before.tokens, before.finished)
    ours_since = now.begun - base.begun + (0 if base.quiet else base.ours)
    return (now.busy > ours and fresh) or now.finished - base.finished > ours_since


async def watch_users(service: Service) -> None:
    """Tell the service whenever a user was active, until cancelled; only where the server is the user's own."""
    base: Look | None = None
    before: Look | None = None
    while not service.processes.server.ours:
        await service.processes.ready.wait()
        try:
            now = await _look(service)
        except ModelUnavailable:  # it has gone, and the supervisor will learn of it
            base = before = None
        else:
            if user_seen(base, before, now):
                service.users.asked()
                base = None
            # Two quiet looks: what the server counts as finished may lag behind its answer.
            still = before is not None and before.quiet and now.quiet and before.begun == now.begun
            if base is None or still or now.finished < base.finished:
                base = now
            before = now
        await anyio.sleep(ATTEND_S if service.worker.kind == "train" else LOOK_S)


async def _look(service: Service) -> Look:
    model = service.model
    in_flight, begun = model.in_flight, model.begun
    told = await model.metrics()
    return Look(
        busy=told.get("vllm:num_requests_running", 0.0) + told.get("vllm:num_requests_waiting", 0.0),
        finished=told.get("vllm:request_success_total", 0.0),
        tokens=told.get("vllm:prompt_tokens_total", 0.0) + told.get("vllm:generation_tokens_total", 0.0),
        ours=in_flight + model.begun - begun,
        begun=model.begun,
        quiet=in_flight == 0 and model.begun == begun,
    )
