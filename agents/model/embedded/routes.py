"""The embedded server's routes: OpenAI's, `/tokenize`, `/metrics`, and two batch routes of ours.

    POST /v1/batch/chat       answers to many conversations, each with its own seed
    POST /v1/batch/tokenize   tokens of many conversations or texts

Invariant: every request is answered, or refused with status 4xx and a sentence; a 500 is a bug. Every
generated answer names the version of the weights at its start and at its end. This module does not know who
changes the weights. It checks no credentials: the middleware in front of the routes does.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agents.model import chat_messages, requests
from agents.model.embedded.engine import Engine
from agents.model.embedded.running import Cancelled, GenerationRequest
from agents.model.embedded.sampling import Generation
from corpus.aliases import Json
from corpus.errors import UnknownId, UsageError

COMPLETION_MAX_TOKENS = 16
"""Most tokens of a completion when the request sets no limit; OpenAI's own default."""
ALIAS = "nightschool"
"""A model name that always means the served model."""
_ids = itertools.count(1)

Handler = Callable[[Engine, Request], Awaitable[Response]]


def build_app(engine: Engine) -> Starlette:
    """Return the application that serves `engine`, without the middleware that checks access."""
    routes: dict[tuple[str, str], Handler] = {
        ("/v1/models", "GET"): _models,
        ("/metrics", "GET"): _metrics,
        ("/tokenize", "POST"): _tokenize,
        ("/v1/chat/completions", "POST"): _chat,
        ("/v1/completions", "POST"): _complete,
        ("/v1/batch/chat", "POST"): _batch_chat,
        ("/v1/batch/tokenize", "POST"): _batch_tokenize,
    }
    return Starlette(
        routes=[
            Route(path, _bind(handler, engine), methods=[method])
            for (path, method), handler in routes.items()
        ],
        exception_handlers={
            UsageError: _refused,
            UnknownId: _refused,
            Cancelled: _cancelled,
            404: _no_route,
            405: _no_route,
        },
    )


def _bind(handler: Handler, engine: Engine) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler in the form that Starlette calls."""

    async def endpoint(request: Request) -> Response:
        return await handler(engine, request)

    return endpoint


def _error(status: int, kind: str, sentence: str) -> JSONResponse:
    """Return the response for an error, in OpenAI's format."""
    error = {"message": sentence, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error}, status)


async def _refused(_: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, UnknownId) else 400
    return _error(status, "invalid_request_error", str(error))


async def _cancelled(_: Request, error: Exception) -> Response:
    return _error(503, "server_error", "the server is stopping; ask again when it is back")


async def _no_route(request: Request, error: Exception) -> Response:
    status: int = getattr(error, "status_code", 404)
    return _error(status, "invalid_request_error", f"{request.method} {request.url.path} is not served here")


async def _models(engine: Engine, _: Request) -> Response:
    card = {
        "id": engine.name,
        "object": "model",
        "owned_by": "nightschool",
        "max_model_len": engine.context,
        "end_token_ids": list(engine.end_ids),
        "dtype": engine.dtype,
        "threads": engine.threads,
        "weights_version": engine.weights.version,
        "weights_held": engine.weights.holds,
        "weights_dirty": engine.weights.dirty,
    }
    return JSONResponse({"object": "list", "data": [card]})


async def _metrics(engine: Engine, _: Request) -> Response:
    gauges = {
        "requests_running": engine.users_running + engine.batches_running,
        "user_requests_running": engine.users_running,
        "batch_requests_running": engine.batches_running,
        "weights_version": engine.weights.version,
        "weights_dirty": int(engine.weights.dirty),
    }
    tokens = engine.sampler.batch.tokens
    text = "".join(
        f"# TYPE nightschool_{name} gauge\nnightschool_{name} {value}\n" for name, value in gauges.items()
    )
    text += f"# TYPE nightschool_tokens counter\nnightschool_tokens_total {tokens}\n"
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def _batch_tokenize(engine: Engine, request: Request) -> Response:
    body = requests.parse_body(await request.body())
    return JSONResponse({"tokens": await asyncio.to_thread(engine.tokenizer.encode_many, body)})


async def _tokenize(engine: Engine, request: Request) -> Response:
    body = requests.parse_body(await request.body())
    opens = requests.flag(body, "add_generation_prompt", True)
    if "messages" in body:
        messages = chat_messages.messages(body["messages"])
        tokens = engine.tokenizer.encode_chat(
            messages,
            add_generation_prompt=opens,
            settings=requests.template_settings(body),
            tools=_tools(engine, body),
        )
    else:
        tokens = engine.tokenizer.encode_markup(chat_messages.text(body.get("prompt"), "prompt"))
    return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": engine.context})


async def _chat(engine: Engine, request: Request) -> Response:
    body = _with_defaults(engine, requests.parse_body(await request.body()))
    _check_name(engine, body)
    settings = requests.sampling_settings(body, default_max_tokens=None)
    messages = chat_messages.messages(body.get("messages"))
    _require_short(engine, sum(len(str(message.get("content") or "")) for message in messages))
    encode = partial(
        engine.tokenizer.encode_chat,
        messages,
        settings=requests.template_settings(body),
        tools=_tools(engine, body),
    )
    tokens = await asyncio.to_thread(encode)  # off the event loop, as other users wait
    count, offsets = requests.choices(body), engine.steering.offsets(body)
    seeds = requests.seeds(body, settings.seed, count)
    rows = [engine.request(tokens, seed, settings, offsets) for seed in seeds]
    head = _head(engine, "chatcmpl", "chat.completion")
    if requests.flag(body, "stream"):
        if count != 1:
            raise UsageError("a stream carries one answer; leave n out, or stream out")
        return StreamingResponse(_events(engine, rows[0], head), media_type="text/event-stream")
    answers = await engine.generate(request, rows, user=True)
    choices = [
        {"index": index, "message": {"role": "assistant", "content": answer.text}, **_ending(answer)}
        for index, answer in enumerate(answers)
    ]
    return _response(engine, head, choices, len(tokens), answers)


async def _complete(engine: Engine, request: Request) -> Response:
    body = _with_defaults(engine, requests.parse_body(await request.body()))
    _check_name(engine, body)
    if body.get("tools"):
        raise UsageError("tools is not supported here; leave it out")
    if requests.flag(body, "stream"):
        raise UsageError("completions do not stream here; use /v1/chat/completions, or leave stream out")
    settings = requests.sampling_settings(body, default_max_tokens=COMPLETION_MAX_TOKENS)
    given = requests.prompts(body)
    for prompt in given:
        _require_short(engine, len(prompt) if isinstance(prompt, str) else 0)
    prompts = await asyncio.to_thread(
        lambda: [engine.tokenizer.encode_markup(one) if isinstance(one, str) else one for one in given]
    )
    row_prompts = [prompt for prompt in prompts for _ in range(requests.choices(body))]
    if len(row_prompts) > requests.MAX_ROWS:
        raise UsageError(f"prompts times n must be at most {requests.MAX_ROWS}")
    seeds = requests.seeds(body, settings.seed, len(row_prompts))
    offsets = engine.steering.offsets(body)
    rows = [
        engine.request(tokens, seed, settings, offsets)
        for tokens, seed in zip(row_prompts, seeds, strict=True)
    ]
    head = _head(engine, "cmpl", "text_completion")
    show = requests.flag(body, "return_token_ids")
    answers = await engine.generate(request, rows, user=len(prompts) == 1)
    choices = []
    for index, answer in enumerate(answers):
        ids = {"token_ids": list(answer.token_ids), "prompt_token_ids": row_prompts[index]} if show else {}
        choices.append({"index": index, "text": answer.text, **_ending(answer), **ids})
    return _response(engine, head, choices, sum(map(len, prompts)), answers)


async def _batch_chat(engine: Engine, request: Request) -> Response:
    body = requests.parse_body(await request.body())
    _check_name(engine, body)
    count = len(requests.batch_rows(body))
    settings = requests.sampling_settings_each(body, count)
    offsets = engine.steering.offsets_each(body, count)

    def prepare() -> list[GenerationRequest]:
        encoded, ends = engine.tokenizer.encode_rows(body), engine.tokenizer.more_ends(body)
        return [
            engine.request(tokens, own.seed, own, steer, end_ids)
            for tokens, own, steer, end_ids in zip(encoded, settings, offsets, ends, strict=True)
        ]

    # Off the event loop: encoding thousands of conversations would keep users waiting.
    rows = await asyncio.to_thread(prepare)
    version = engine.weights.version
    answers = await engine.generate(request, rows, user=False)
    results = [
        {"text": answer.text, "token_ids": list(answer.token_ids), "finish_reason": answer.finish_reason}
        for answer in answers
    ]
    return JSONResponse({"results": results, "model": engine.name, **_versions(engine, version)})


async def _events(engine: Engine, row: GenerationRequest, head: Json) -> AsyncIterator[bytes]:
    """Yield the answer to `row` as server-sent events in OpenAI's format; each has the fields in `head`."""
    chunk = {**head, "object": "chat.completion.chunk"}

    def event(delta: Json, reason: str | None, **more: object) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return b"data: " + json.dumps({**chunk, "choices": [choice], **more}).encode() + b"\n\n"

    yield event({"role": "assistant", "content": ""}, None)
    try:
        async for piece in engine.stream(row):
            if isinstance(piece, str):
                yield event({"content": piece}, None)
            else:
                versions = _versions(engine, head["weights_version"])
                yield event({}, piece.finish_reason, usage=_usage(len(row.tokens), (piece,)), **versions)
        yield b"data: [DONE]\n\n"
    except Cancelled:
        # The stream has begun, so its status cannot change: it ends without [DONE].
        return


def _with_defaults(engine: Engine, body: Json) -> Json:
    """Return a user's request, with the model's own sampling settings where the request names none."""
    return {**body, **{name: value for name, value in engine.defaults.items() if body.get(name) is None}}


def _require_short(engine: Engine, letters: int) -> None:
    """Raise `UsageError` for a prompt that cannot fit, before time and memory are spent on its tokens.

    Args:
        engine: The engine, whose context no prompt may exceed.
        letters: Number of characters of the prompt.
    """
    most = engine.context * engine.tokenizer.longest
    if letters > most:
        raise UsageError(
            f"the prompt has {letters:,} characters, and no more than {most:,} can fit into the "
            f"{engine.context} tokens that the model reads; leave earlier messages out"
        )


def _check_name(engine: Engine, body: Json) -> None:
    """Raise `UnknownId` if the request names another model."""
    if body.get("model") not in (None, "", engine.name, ALIAS):
        raise UnknownId(f"there is no model {body['model']!r} here; ask for {engine.name!r}, or leave it out")


def _tools(engine: Engine, body: Json) -> list[Json]:
    """Return the tools of a user's request; raise `UsageError` if the model's template would drop them."""
    tools = chat_messages.tools(body.get("tools"))
    if tools and not engine.tokenizer.takes_tools:
        raise UsageError("this model's chat template renders no tools; leave tools out")
    return tools


def _head(engine: Engine, prefix: str, kind: str) -> Json:
    """Return the fields that every answer begins with; `prefix` is that of its id, `kind` its object."""
    return {
        "id": f"{prefix}-{next(_ids)}",
        "object": kind,
        "created": int(time.time()),
        "model": engine.name,
        "weights_version": engine.weights.version,
    }


def _versions(engine: Engine, start: object) -> Json:
    """Return the fields for the version of the weights at an answer's start, and for the version now."""
    return {"weights_version": start, "weights_version_end": engine.weights.version}


def _ending(answer: Generation) -> Json:
    """Return the fields of a choice that say how it ended."""
    return {"finish_reason": answer.finish_reason, "logprobs": None}


def _usage(prompt_tokens: int, answers: Sequence[Generation]) -> Json:
    """Return the token counts of a prompt and its answers, in OpenAI's format."""
    completion_tokens = sum(len(answer.token_ids) for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _response(
    engine: Engine, head: Json, choices: Sequence[Json], prompt_tokens: int, answers: Sequence[Generation]
) -> Response:
    """Return the response with all choices, in OpenAI's format."""
    usage, versions = _usage(prompt_tokens, answers), _versions(engine, head["weights_version"])
    return JSONResponse({**head, "choices": choices, "usage": usage, **versions})
