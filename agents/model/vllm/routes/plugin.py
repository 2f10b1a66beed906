"""The plugin that adds our routes to a user's own vLLM (group `vllm.endpoint_plugins`).

    POST /v1/batch/chat, POST /v1/batch/tokenize                      many rows at once: see `batch`
    POST /train, POST /checkpoint, POST /rollback, GET /train/status  passed on to the service: see `training`
    GET /v1/readout/manifest, GET /v1/readout/...                     see `readout.serving`

vLLM itself checks access to the routes under /v1. For the other routes the rules of `access` apply, before a
body is read. Invariant: without a home that names this vLLM there are no routes, and an error is answered in
OpenAI's format, with a reason. This module knows nothing about weights.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agents.model.vllm.config import PLUGIN_NAME, PluginConfig, read_config
from agents.model.vllm.readout import serving
from agents.model.vllm.routes.access import Access, only_loopback, refusal
from agents.model.vllm.routes.batch import BatchRoutes, batch_routes
from agents.model.vllm.routes.service import ServiceClient
from agents.model.vllm.routes.training import TrainingRoutes
from agents.model.vllm.served_directory import ServedDirectory
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
"""HTTP status of each class of errors; for an error of several classes, the first one counts."""


@dataclass(frozen=True, kw_only=True)
class _Started:
    """The handlers that need a started engine, and the settings of the access rules."""

    batch: BatchRoutes
    training: TrainingRoutes
    access: Access


Handler = Callable[[_Started, Request], Awaitable[Response]]


class Plugin:
    """Our routes in the form of vLLM's `EndpointPlugin`."""

    name = PLUGIN_NAME
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._config = _config()
        self._started: _Started | None = None
        self._readout: serving.ReadoutServing | None = None

    def attach_router(self, app: Any) -> None:
        """Add the routes to vLLM's application."""
        if self._config is None:
            return
        app.add_exception_handler(NightschoolError, _error_response)
        self._readout = serving.attach(app, self._config)
        for path, method, handler in (
            ("/v1/batch/chat", "POST", lambda it, request: it.batch.chat(request)),
            ("/v1/batch/tokenize", "POST", lambda it, request: it.batch.tokenize(request)),
            ("/train", "POST", _restricted(lambda it, request: it.training.train(request))),
            ("/checkpoint", "POST", _restricted(lambda it, request: it.training.checkpoint(request))),
            ("/rollback", "POST", _restricted(lambda it, request: it.training.rollback(request))),
            ("/train/status", "GET", _restricted(lambda it, request: it.training.status(request))),
        ):
            app.add_api_route(path, self._endpoint(handler), methods=[method], name=f"nightschool {path}")

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Make the handlers; vLLM calls this once its engine has started.

        Args:
            engine_client: vLLM's EngineClient.
            state: The state of vLLM's application, which is not used.
            args: The parsed command line of vLLM.
        """
        if self._config is None:
            return
        if self._readout is not None:
            self._readout.start(engine_client)
        home = self._config.home
        served = ServedDirectory(home.served_dir)
        self._started = _Started(
            batch=await batch_routes(engine_client, args, served.weights_file),
            training=TrainingRoutes(served, ServiceClient(home)),
            access=Access(keys=_keys(args), token=_token(home), loopback=only_loopback(args.host, args.uds)),
        )

    def _endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler in the form that FastAPI calls."""

        async def endpoint(request: Request) -> Response:
            if self._started is None:
                raise ModelUnavailable("vLLM is still starting; try again in a few seconds")
            return await handler(self._started, request)

        return endpoint


def _restricted(handler: Handler) -> Handler:
    """Return a handler that applies the access rules, then calls `handler` if they admit the request."""

    async def restricted(started: _Started, request: Request) -> Response:
        refused = refusal(started.access, request.headers.items())
        return _error(*refused) if refused else await handler(started, request)

    return restricted


def _config() -> PluginConfig | None:
    """Return the plugin's configuration; None if no home names this vLLM, or the home's file is invalid.

    `vllm/plugin.py` has logged an invalid file already.
    """
    try:
        return read_config()
    except ConfigError:
        return None


def _keys(args: Any) -> tuple[str, ...]:
    """Return the API keys of vLLM: those of its command line or, without these, that of the environment."""
    return tuple(key for key in args.api_key or [os.environ.get("VLLM_API_KEY")] if key)


def _token(home: Home) -> str:
    """Return the home's token; "" if it has none."""
    try:
        return home.token()
    except FileNotFoundError:
        return ""


async def _error_response(_: Request, error: Exception) -> Response:
    """Return the response for an error that a handler raised."""
    return _error(next(status for kind, status in _STATUS if isinstance(error, kind)), str(error))


def _error(status: int, reason: str) -> Response:
    """Return the response for an error, in OpenAI's format."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": reason, "type": kind, "param": None, "code": status}}, status)
