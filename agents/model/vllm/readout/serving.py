"""The routes and fields of readout and steering for a client, in the process of vLLM that answers requests.

    GET /v1/readout/manifest     the concepts, layers and model of the readings
    GET /v1/readout/{response}   the readings of one of the last responses

A chat or plain completion has its readings in the field `readout`; a stream has them in one more chunk before
its end. A request may have the fields `readout` (false means that it is not read) and `steer` ({concept:
strength}), which are passed to the engine here. vLLM's two serving functions are wrapped, because only they
have both a request and its whole answer.

Invariant: an answer waits at most `PATIENCE_SECONDS` for its readings. A request whose `steer` is not
possible is refused, never answered without steering. This module knows nothing about tensors.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import zmq
import zmq.asyncio

from agents.model.describe import digest_of
from agents.model.steering.concept_vectors import ConceptVectors, ConceptVectorsWatcher
from agents.model.steering.wire import MAX_STRENGTH, check_strengths, engine_arguments
from agents.model.vllm.config import PluginConfig
from agents.model.vllm.readout.hooks import refusal
from agents.model.vllm.readout.publisher import WAITING, address
from agents.model.vllm.readout.scores import Readings, unpack
from corpus.aliases import Json
from corpus.errors import GateRefused, UnknownId, UsageError

log = logging.getLogger("vllm.nightschool")
PATIENCE_SECONDS = 0.2
"""Longest wait for the readings of an answer. The scores of a token are sent before the token, so they arrive
within a millisecond, unless they were dropped."""
_END = "data: [DONE]"
_CLIENT_PREFIXES = ("chatcmpl-", "cmpl-")
"""Prefixes of the ids of responses that a client can ask for."""
_PROMPT = re.compile(r"(?P<response>cmpl-.+)-(?P<prompt>\d+)")
"""Name of a plain completion's request in vLLM: the response's id, and the number of the prompt."""


class ReadoutServing:
    """Readout and steering of one vLLM, in the process that answers requests."""

    def __init__(self, config: PluginConfig) -> None:
        self._config = config
        self._socket_file = address(config.home.served_dir, "")
        self._watched: ConceptVectorsWatcher | None = None
        self._refused = "vLLM has not started yet"
        self._model = ""
        self._receiver: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self.readings = Readings()

    @property
    def reads(self) -> bool:
        """Whether answers are read."""
        return self._config.model.readout and not self._refused

    def start(self, engine: Any) -> None:
        """Start to receive readings from the started engine; this needs a running event loop."""
        vllm_config = engine.vllm_config
        model = vllm_config.model_config
        self._refused, self._model = refusal(vllm_config), str(model.model)
        self._socket_file = address(self._config.home.served_dir, vllm_config.instance_id)
        self._watched = ConceptVectorsWatcher(
            self._config.home.path / "readout",
            hidden_size=model.get_hidden_size(),
            layers=model.hf_text_config.num_hidden_layers,
            model=digest_of(self._model),
        )
        if self.reads:
            _report_ends(self.readings)
            self._receiver = asyncio.get_running_loop().create_task(self._receive())

    def vectors(self) -> ConceptVectors:
        """Return the concept vectors; raise `UsageError` with the reason if this vLLM cannot use any."""
        if not self._refused and not self._socket_file.exists():
            raise UsageError(
                "this vLLM's model has no hooks: its log says why; with several API servers there are none"
            )
        if self._refused or self._watched is None:
            raise UsageError(self._refused)
        self._watched.look()
        if self._watched.vectors is None:
            raise UsageError(self._watched.reason)
        return self._watched.vectors

    def manifest(self) -> Json:
        """Return the answer to `GET /v1/readout/manifest`: what is read, and how to steer."""
        vectors = self.vectors()
        return {
            "enabled": self.reads,
            "model": self._model,
            "concepts": list(vectors.concepts),
            "layers": list(vectors.layers),
            "hidden_size": vectors.hidden_size,
            "dtype": "float32",
            "weights_version": vectors.weights_version,
            "vectors": vectors.digest,
            "steering": {
                "layer": vectors.layers[vectors.steered],
                "unit": "residual stream",
                "strongest": MAX_STRENGTH,
            },
        }

    def prepare(self, request: Any) -> bool:
        """Pass `readout` and `steer` of a request on to the engine, and return whether its answer is read.

        Args:
            request: vLLM's chat or completion request, whose `vllm_xargs` are changed.

        Raises:
            UsageError: One of the two fields is malformed, or steering is not possible.
        """
        fields = request.model_extra or {}
        extra = {k: v for k, v in (request.vllm_xargs or {}).items() if k not in ("steer", "readout")}
        wanted = fields.get("readout")
        if not (wanted is None or isinstance(wanted, bool)):
            raise UsageError("readout is true or false")
        if self.reads and wanted is False:
            extra["readout"] = False
        if (steer := fields.get("steer")) is not None:
            vectors = self.vectors()
            if (strengths := check_strengths(steer, vectors.concepts)) and request.use_beam_search:
                raise UsageError("beam search cannot be steered")
            if strengths:
                extra["steer"] = engine_arguments(strengths, vectors.digest)
        request.vllm_xargs = extra or None
        return self.reads and wanted is not False

    async def readings_of(self, response: str) -> list[Json]:
        """Return the readings of a response that has just ended; wait a short time for the last of them.

        If they do not all arrive in time, the readings are those of the tokens that did.
        """
        with suppress(TimeoutError, UsageError):
            self.vectors()  # without vectors nothing will arrive
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not self.readings.complete(response):
                    await self._arrived.wait()
        return self.readings.of(response) or []

    async def _receive(self) -> None:
        """Receive the scores of forward passes, for as long as the server lives."""
        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as socket:
            socket.set_hwm(WAITING)
            socket.linger = 0
            socket.subscribe(b"")
            socket.connect(f"ipc://{self._socket_file}")
            while True:
                try:
                    self.readings.add(unpack(await socket.recv_multipart()))
                except ValueError as error:
                    log.warning("nightschool: %s", error)
                arrived, self._arrived = self._arrived, asyncio.Event()
                arrived.set()


def attach(app: Any, config: PluginConfig) -> ReadoutServing:
    """Add the routes to vLLM's application, and wrap vLLM's serving functions.

    Returns:
        The object behind them; the caller calls its `start` once the engine has started.
    """
    from starlette.responses import JSONResponse
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

    serving = ReadoutServing(config)

    async def manifest(request: Any) -> JSONResponse:
        _check_enabled(config)
        try:
            return JSONResponse(serving.manifest())
        except UsageError as error:
            raise GateRefused(str(error)) from error

    async def of(request: Any) -> JSONResponse:
        _check_enabled(config)
        response = request.path_params["response"]
        if not (entries := serving.readings.of(response)):
            raise UnknownId(
                f"there are no readings of {response!r}: only those of the last responses are kept"
            )
        return JSONResponse({"id": response, "readout": entries})

    app.add_route("/v1/readout/manifest", manifest, methods=["GET"])
    app.add_route("/v1/readout/{response}", of, methods=["GET"])
    _wrap(OpenAIServingChat, "create_chat_completion", serving)
    _wrap(OpenAIServingCompletion, "create_completion", serving)
    return serving


def _check_enabled(config: PluginConfig) -> None:
    if not config.model.readout:
        raise UnknownId(
            "the readout is off: set model.readout = true in the home's config.toml, and restart vLLM"
        )


def _wrap(vllm_serving: Any, name: str, serving: ReadoutServing) -> None:
    """Wrap the function `name` of vLLM's serving class, so that its answers carry their readings."""
    serve: Callable[..., Any] = getattr(vllm_serving, name)

    async def create(self: Any, request: Any, raw_request: Any = None) -> Any:
        try:
            read = serving.prepare(request)
        except UsageError as error:
            return self.create_error_response(str(error))
        answer = await serve(self, request, raw_request)
        if not read:
            return answer
        if hasattr(answer, "choices"):
            answer.readout = await serving.readings_of(answer.id)
        elif hasattr(answer, "__aiter__"):
            return _with_readings(answer, serving)
        return answer

    setattr(vllm_serving, name, create)


async def _with_readings(stream: AsyncIterator[str], serving: ReadoutServing) -> AsyncIterator[str]:
    """Yield the events of vLLM's stream of an answer, with one more before its end: the readings."""
    head: Json = {}
    async for event in stream:
        if not head and event.startswith("data: {"):
            head = json.loads(event[len("data: ") :])
        if event.startswith(_END) and "id" in head:
            chunk: Json = {key: head[key] for key in ("id", "object", "created", "model") if key in head}
            chunk |= {"choices": [], "readout": await serving.readings_of(head["id"])}
            yield f"data: {json.dumps(chunk)}\n\n"
        yield event


def _report_ends(readings: Readings) -> None:
    """Wrap vLLM's output processor, so that it calls `readings.ended` at the end of each answer."""
    from vllm.v1.engine.output_processor import OutputProcessor

    finish = OutputProcessor._finish_request

    def _finish_request(self: Any, state: Any) -> None:
        finish(self, state)
        response, prompt = state.external_req_id, 0
        if response.startswith(_CLIENT_PREFIXES) and state.detokenizer is not None:
            if named := _PROMPT.fullmatch(response):
                response, prompt = named["response"], int(named["prompt"])
            choices = state.parent_req.n if state.parent_req is not None else 1
            readings.ended(
                state.request_id,
                response,
                prompt * choices + state.request_index,
                state.detokenizer.num_output_tokens(),
            )

    OutputProcessor._finish_request = _finish_request
