"""Readout and steering as a client meets them: in the process of vLLM that answers.

    GET /v1/readout/manifest     what is read: concepts, layers, the model
    GET /v1/readout/{response}   the readings of one of the last responses

A chat or plain completion carries its readings as `readout`, a stream in a chunk of its own before the end; the
request's fields `readout` (false: not this one) and `steer` ({concept: strength}) are taken here. vLLM's two serving
functions are wrapped, for they alone know a request and its whole answer. Invariant: an answer waits at most
`PATIENCE_SECONDS` for its readings; a `steer` that these two cannot do is refused, never left out. Knows no tensor.
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
from agents.model.vllm.configured import Configured
from agents.model.vllm.readout.hooks import refusal
from agents.model.vllm.readout.publisher import WAITING, address
from agents.model.vllm.readout.scores import Readings, unpack
from corpus.errors import GateRefused, UnknownId, UsageError

log = logging.getLogger("vllm.nightschool")
PATIENCE_SECONDS = 0.2
"""Readings are sent before the token that they go with: they are here within a millisecond, or were dropped."""
_END = "data: [DONE]"
_CLIENTS = ("chatcmpl-", "cmpl-")
"""How the names of the responses begin that a client can ask for."""
_PROMPT = re.compile(r"(?P<response>cmpl-.+)-(?P<prompt>\d+)")
"""How vLLM calls each prompt of a plain completion."""


class Front:
    """What the answering process knows of readout and steering."""

    def __init__(self, found: Configured) -> None:
        self._found = found
        self._socket_file = address(found.home.served_dir, "")
        self._watched: ConceptVectorsWatcher | None = None
        self._refused = "vLLM has not started yet"
        self._model = ""
        self._listening: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.readings = Readings()

    @property
    def reads(self) -> bool:
        """Whether answers are read."""
        return self._found.model.readout and not self._refused

    def start(self, engine: Any) -> None:
        """Begin to listen, once the engine is there; needs a running event loop."""
        config = engine.vllm_config
        model = config.model_config
        self._refused, self._model = refusal(config), str(model.model)
        self._socket_file = address(self._found.home.served_dir, config.instance_id)
        layers = model.hf_text_config.num_hidden_layers
        self._watched = ConceptVectorsWatcher(
            self._found.home.path / "readout",
            hidden_size=model.get_hidden_size(),
            layers=layers,
            model=digest_of(self._model),
        )
        if self.reads:
            _tell_ends(self.readings)
            self._listening = asyncio.get_running_loop().create_task(self._listen())

    def vectors(self) -> ConceptVectors:
        """The vectors, or a `UsageError` that says why there are none."""
        if not self._refused and not self._socket_file.exists():
            raise UsageError(
                "this vLLM's model has no hooks: its log says why; more than one API server has none either"
            )
        if self._refused or self._watched is None:
            raise UsageError(self._refused)
        self._watched.look()
        if self._watched.vectors is None:
            raise UsageError(self._watched.reason)
        return self._watched.vectors

    def manifest(self) -> dict[str, Any]:
        """What is read, and what can be steered by."""
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
        """Carry `readout` and `steer` over to what the engine is told; says whether the answer is read.

        Raises `UsageError` for what cannot be done.
        """
        asked = request.model_extra or {}
        extra = {k: v for k, v in (request.vllm_xargs or {}).items() if k not in ("steer", "readout")}
        wanted = asked.get("readout")
        if not (wanted is None or isinstance(wanted, bool)):
            raise UsageError("readout is true or false")
        if self.reads and wanted is False:
            extra["readout"] = False
        if asked.get("steer") is not None:
            vectors = self.vectors()
            if (added := check_strengths(asked["steer"], vectors.concepts)) and request.use_beam_search:
                raise UsageError("beam search cannot be steered")
            if added:
                extra["steer"] = engine_arguments(added, vectors.digest)
        request.vllm_xargs = extra or None
        return self.reads and wanted is not False

    async def take(self, response: str) -> list[dict[str, Any]]:
        """The readings of a response that has just ended."""
        with suppress(TimeoutError, UsageError):
            self.vectors()  # where there are none, nothing will come
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not self.readings.whole(response):
                    await self._news.wait()
        return self.readings.of(response) or []

    async def _listen(self) -> None:
        """Take in what the forward passes read, for as long as the server lives."""
        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as socket:
            socket.set_hwm(WAITING)
            socket.linger = 0
            socket.subscribe(b"")
            socket.connect(f"ipc://{self._socket_file}")
            while True:
                try:
                    self.readings.add(unpack(await socket.recv_multipart()))
                except ValueError as fault:
                    log.warning("nightschool: %s", fault)
                news, self._news = self._news, asyncio.Event()
                news.set()


def attach(app: Any, found: Configured) -> Front:
    """Add the routes to the server's app and wrap its serving functions; `Front.start` then begins."""
    from starlette.responses import JSONResponse
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

    front = Front(found)

    async def manifest(request: Any) -> JSONResponse:
        _check_on(found)
        try:
            return JSONResponse(front.manifest())
        except UsageError as fault:
            raise GateRefused(str(fault)) from fault

    async def of(request: Any) -> JSONResponse:
        _check_on(found)
        response = request.path_params["response"]
        if not (entries := front.readings.of(response)):
            raise UnknownId(
                f"there are no readings of {response!r}: only those of the last responses are kept"
            )
        return JSONResponse({"id": response, "readout": entries})

    app.add_route("/v1/readout/manifest", manifest, methods=["GET"])
    app.add_route("/v1/readout/{response}", of, methods=["GET"])
    _wrap(OpenAIServingChat, "create_chat_completion", front)
    _wrap(OpenAIServingCompletion, "create_completion", front)
    return front


def _check_on(found: Configured) -> None:
    if not found.model.readout:
        raise UnknownId(
            "the readout is off: set model.readout = true in the home's config.toml, and restart vLLM"
        )


def _wrap(serving: Any, name: str, front: Front) -> None:
    """Put the readings into what this function of vLLM's answers."""
    serve: Callable[..., Any] = getattr(serving, name)

    async def create(self: Any, request: Any, raw_request: Any = None) -> Any:
        try:
            read = front.prepare(request)
        except UsageError as fault:
            return self.create_error_response(str(fault))
        answer = await serve(self, request, raw_request)
        if not read:
            return answer
        if hasattr(answer, "choices"):
            answer.readout = await front.take(answer.id)
        elif hasattr(answer, "__aiter__"):
            return _with_readings(answer, front)
        return answer

    setattr(serving, name, create)


async def _with_readings(stream: AsyncIterator[str], front: Front) -> AsyncIterator[str]:
    """A stream of server-sent events, with the readings in one more chunk before its end."""
    head: dict[str, Any] = {}
    async for event in stream:
        if not head and event.startswith("data: {"):
            head = json.loads(event[len("data: ") :])
        if event.startswith(_END) and "id" in head:
            kept = {key: head[key] for key in ("id", "object", "created", "model") if key in head}
            found = await front.take(head["id"])
            yield f"data: {json.dumps({**kept, 'choices': [], 'readout': found})}\n\n"
        yield event


def _tell_ends(readings: Readings) -> None:
    """Have vLLM tell of each answer that ends."""
    from vllm.v1.engine.output_processor import OutputProcessor

    finish = OutputProcessor._finish_request

    def _finish_request(self: Any, state: Any) -> None:
        finish(self, state)
        response, prompt = state.external_req_id, 0
        if response.startswith(_CLIENTS) and state.detokenizer is not None:
            if named := _PROMPT.fullmatch(response):
                response, prompt = named["response"], int(named["prompt"])
            each = state.parent_req.n if state.parent_req is not None else 1
            readings.ended(
                state.request_id,
                response,
                prompt * each + state.request_index,
                state.detokenizer.num_output_tokens(),
            )

    OutputProcessor._finish_request = _finish_request
