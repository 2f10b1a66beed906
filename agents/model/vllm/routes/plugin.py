"""Our routes on the user's own vLLM, by its own kind of plugin for routes (group `vllm.endpoint_plugins`).

    POST /v1/batch/chat, POST /v1/batch/tokenize                      many rows at once: see `batch.py`
    POST /train, POST /checkpoint, POST /rollback, GET /train/status  passed on to the service: see `training.py`
    GET /v1/readout/manifest, GET /v1/readout/...                     see `readings.py`

Those under /v1 are guarded by vLLM as all of /v1 is; the others by `access.py`, before anything of a request is read.
Invariant: without a home that names this vLLM there are no routes; an error of ours is answered in OpenAI's form, with
a sentence. Knows no weights.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agents.model.vllm.configured import Configured, configured
from agents.model.vllm.place import Place
from agents.model.vllm.readout import readings
from agents.model.vllm.routes import enlist
from agents.model.vllm.routes.access import Access, only_loopback, refusal
from agents.model.vllm.routes.batch import Batches, make_batches
from agents.model.vllm.routes.service import ServiceClient
from agents.model.vllm.routes.training import Training
from corpus.errors import (
    ConfigError,
    GateRefused,
    IntegrityFault,
    ModelUnavailable,
    NightschoolError,
    ServiceAway,
    UnknownId,
    UsageError,
)
from store.home import Home

_STATUS: tuple[tuple[type[NightschoolError], int], ...] = (
    (UnknownId, 404),
    (UsageError, 400),
    (GateRefused, 409),
    (IntegrityFault, 409),
    (ModelUnavailable, 503),
    (ServiceAway, 503),
    (NightschoolError, 500),
)
"""Of an answer that is an error: the first that fits."""


@dataclass(frozen=True, kw_only=True)
class _Started:
    """What the routes need once the engine is there."""

    batches: Batches
    training: Training
    access: Access


Work = Callable[[_Started, Request], Awaitable[Response]]


class Plugin:
    """See vLLM's `EndpointPlugin`."""

    name = enlist.NAME
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._found = _configured()
        self._started: _Started | None = None
        self._front: readings.Front | None = None

    def attach_router(self, app: Any) -> None:
        """Add the routes to vLLM's application."""
        if self._found is None:
            return
        app.add_exception_handler(NightschoolError, _failed)
        self._front = readings.attach(app, self._found)
        for path, method, work in (
            ("/v1/batch/chat", "POST", lambda it, request: it.batches.chat(request)),
            ("/v1/batch/tokenize", "POST", lambda it, request: it.batches.tokenize(request)),
            ("/train", "POST", _guarded(lambda it, request: it.training.train(request))),
            ("/checkpoint", "POST", _guarded(lambda it, request: it.training.checkpoint(request))),
            ("/rollback", "POST", _guarded(lambda it, request: it.training.rollback(request))),
            ("/train/status", "GET", _guarded(lambda it, request: it.training.status(request))),
        ):
            app.add_api_route(path, self._endpoint(work), methods=[method], name=f"nightschool {path}")

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Take what the routes need, once the engine is there."""
        if self._found is None:
            return
        if self._front is not None:
            self._front.start(engine_client)
        home = self._found.home
        place = Place(home.served_dir)
        self._started = _Started(
            batches=await make_batches(engine_client, args, place.mapping),
            training=Training(place, ServiceClient(home)),
            access=Access(keys=_keys(args), token=_token(home), loopback=only_loopback(args.host, args.uds)),
        )

    def _endpoint(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        """The work as FastAPI calls it."""

        async def endpoint(request: Request) -> Response:
            if self._started is None:
                raise ModelUnavailable("vLLM is still starting; ask again in some seconds")
            return await work(self._started, request)

        return endpoint


def _guarded(work: Work) -> Work:
    """The same for those alone who may ask."""

    async def guarded(started: _Started, request: Request) -> Response:
        refused = refusal(started.access, request.headers.items())
        return _error(*refused) if refused else await work(started, request)

    return guarded


def _configured() -> Configured | None:
    """The home, if there is one; what is wrong with it the general plugin has said."""
    try:
        return configured()
    except ConfigError:
        return None


def _keys(args: Any) -> tuple[str, ...]:
    """The API keys that vLLM takes under /v1: those of its command line, else that of the environment."""
    return tuple(key for key in args.api_key or [os.environ.get("VLLM_API_KEY")] if key)


def _token(home: Home) -> str:
    """The home's token; "" when it has none."""
    try:
        return home.token()
    except FileNotFoundError:
        return ""


async def _failed(_: Request, error: Exception) -> Response:
    """Our error, as an answer."""
    return _error(next(status for kind, status in _STATUS if isinstance(error, kind)), str(error))


def _error(status: int, sentence: str) -> Response:
    """An error in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": sentence, "type": kind, "param": None, "code": status}}, status)
