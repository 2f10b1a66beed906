"""Our routes on the user's own vLLM, by its own kind of plugin for routes (group `vllm.endpoint_plugins`).

    POST /v1/batch/chat, POST /v1/batch/tokenize     many rows at once: see `batch.py`
    GET /v1/readout/...                              see `readings.py`

Invariant: without a home that names this vLLM there are no routes; an error of ours is answered in OpenAI's form, with
a sentence. Knows no weights.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agents.model.vllm import enlist, readings
from agents.model.vllm.batch import Batches, make_batches
from agents.model.vllm.configured import Configured, configured
from agents.model.vllm.place import Place
from corpus.errors import (
    ConfigError,
    GateRefused,
    HomeLocked,
    IntegrityFault,
    ModelUnavailable,
    NightschoolError,
    UnknownId,
    UsageError,
)

_STATUS: tuple[tuple[type[NightschoolError], int], ...] = (
    (UnknownId, 404),
    (UsageError, 400),
    (GateRefused, 409),
    (HomeLocked, 409),
    (IntegrityFault, 409),
    (ModelUnavailable, 503),
    (NightschoolError, 500),
)
"""The first that fits."""


class Plugin:
    """See vLLM's `EndpointPlugin`."""

    name = enlist.NAME
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._found = _configured()
        self._batches: Batches | None = None
        self._front: readings.Front | None = None

    def attach_router(self, app: Any) -> None:
        """Add the routes to vLLM's application."""
        if self._found is None:
            return
        app.add_exception_handler(NightschoolError, _failed)
        self._front = readings.attach(app, self._found)
        app.add_api_route("/v1/batch/chat", self._batch_chat, methods=["POST"])
        app.add_api_route("/v1/batch/tokenize", self._batch_tokenize, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Take what the routes need, once the engine is there."""
        if self._found is not None:
            if self._front is not None:
                self._front.start(engine_client)
            self._batches = await make_batches(engine_client, args, Place(self._found.home.served_dir).mapping)

    async def _batch_chat(self, request: Request) -> Response:
        return await self._ready().chat(request)

    async def _batch_tokenize(self, request: Request) -> Response:
        return await self._ready().tokenize(request)

    def _ready(self) -> Batches:
        if self._batches is None:
            raise ModelUnavailable("vLLM is still starting; ask again in some seconds")
        return self._batches


def _configured() -> Configured | None:
    """The home, if there is one; what is wrong with it the general plugin has said."""
    try:
        return configured()
    except ConfigError:
        return None


async def _failed(_: Request, error: Exception) -> Response:
    """Our error, as an answer in OpenAI's form."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": str(error), "type": kind, "param": None, "code": status}}, status)
