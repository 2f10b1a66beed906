"""The embedded server's routes: OpenAI's, `/tokenize`, `/metrics`, and two of ours for many rows at once.

    POST /v1/batch/chat       answers to many conversations, a seed each
    POST /v1/batch/tokenize   tokens of many conversations or texts

Invariant: what a user can send is answered or refused with a 4xx and a sentence; a 500 is a bug. Every answer
names the version of the weights it began and ended with. Does not know who changes the weights, nor who may
ask: the guard in front of it does.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agents.model import requests
from agents.model.embedded.engine import Engine
from agents.model.embedded.sampling import Cancelled, Generation, GenerationRequest
from corpus.errors import UnknownId, UsageError

COMPLETION_MAX_TOKENS = 16
"""Tokens of a completion when the request names no limit; OpenAI's own default."""
ALIAS = "nightschool"
"""A model name that always means the served one."""
Fields = dict[str, Any]
_ids = itertools.count(1)


def build_app(served: Engine) -> Starlette:
    """The application, without its guard."""
    routes = {
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
            Route(path, _bound(handler, served), methods=[method])
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


Handler = Callable[[Engine, Request], Awaitable[Response]]


def _bound(handler: Handler, served: Engine) -> Callable[[Request], Awaitable[Response]]:
    """The handler as Starlette calls it."""

    async def endpoint(request: Request) -> Response:
        return await handler(served, request)

    return endpoint


def _error(status: int, kind: str, sentence: str) -> JSONResponse:
    """An error in OpenAI's form."""
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


async def _models(served: Engine, _: Request) -> Response:
    card = {
        "id": served.name,
        "object": "model",
        "owned_by": "nightschool",
        "max_model_len": served.context,
        "end_token_ids": list(served.end_ids),
        "weights_version": served.weights.version,
        "weights_held": served.weights.holds,
        "weights_dirty": served.weights.dirty,
    }
    return JSONResponse({"object": "list", "data": [card]})


async def _metrics(served: Engine, _: Request) -> Response:
    lines = []
    for name, kind, value in (
        ("requests_running", "gauge", served.users.running + served.batches.running),
        ("user_requests_running", "gauge", served.users.running),
        ("batch_requests_running", "gauge", served.batches.running),
        ("weights_version", "gauge", served.weights.version),
        ("weights_dirty", "gauge", int(served.weights.dirty)),
    ):
        lines += [f"# TYPE nightschool_{name} {kind}", f"nightschool_{name} {value}"]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


async def _batch_tokenize(served: Engine, request: Request) -> Response:
    body = requests.parse_body(await request.body())
    return JSONResponse({"tokens": await asyncio.to_thread(served.text.many, body)})


async def _tokenize(served: Engine, request: Request) -> Response:
    body = requests.parse_body(await request.body())
    opens = requests.flag(body, "add_generation_prompt", True)
    if "messages" in body:
        tokens = served.text.conversation(requests.messages(body["messages"]), opens=opens)
    else:
        tokens = served.text.encode_markup(requests.text(body.get("prompt"), "prompt"))
    return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": served.context})


async def _chat(served: Engine, request: Request) -> Response:
    body = requests.parse_body(await request.body())
    _check_name(served, body)
    chosen = requests.sampling_settings(body, default_max_tokens=None)
    tokens = served.text.conversation(requests.messages(body.get("messages")))
    count, offsets = requests.choices(body), served.steering.offsets(body)
    asks = [served.ask(tokens, seed, chosen, offsets) for seed in requests.seeds(body, chosen.seed, count)]
    head = _head(served, "chatcmpl", "chat.completion")
    if requests.flag(body, "stream"):
        if count != 1:
            raise UsageError("a stream carries one answer; leave n out, or stream out")
        return StreamingResponse(_events(served, asks[0], head), media_type="text/event-stream")
    answers = await served.answers(request, asks)
    found = [
        {"index": index, "message": {"role": "assistant", "content": answer.text}, **_ending(answer)}
        for index, answer in enumerate(answers)
    ]
    return _done(served, head, found, len(tokens), answers)


async def _complete(served: Engine, request: Request) -> Response:
    body = requests.parse_body(await request.body())
    _check_name(served, body)
    if requests.flag(body, "stream"):
        raise UsageError("completions do not stream here; use /v1/chat/completions, or leave stream out")
    chosen = requests.sampling_settings(body, default_max_tokens=COMPLETION_MAX_TOKENS)
    given = [
        served.text.encode_markup(one) if isinstance(one, str) else one for one in requests.prompts(body)
    ]
    rows = [prompt for prompt in given for _ in range(requests.choices(body))]
    if len(rows) > requests.MAX_ROWS:
        raise UsageError(f"prompts times n must be at most {requests.MAX_ROWS}")
    seeds, offsets = requests.seeds(body, chosen.seed, len(rows)), served.steering.offsets(body)
    asks = [served.ask(tokens, seed, chosen, offsets) for tokens, seed in zip(rows, seeds, strict=True)]
    head = _head(served, "cmpl", "text_completion")
    show = requests.flag(body, "return_token_ids")
    answers = await served.answers(request, asks)
    found = []
    for index, answer in enumerate(answers):
        ids = {"token_ids": list(answer.token_ids), "prompt_token_ids": rows[index]} if show else {}
        found.append({"index": index, "text": answer.text, **_ending(answer), **ids})
    return _done(served, head, found, sum(map(len, given)), answers)


async def _batch_chat(served: Engine, request: Request) -> Response:
    body = requests.parse_body(await request.body())
    _check_name(served, body)
    speaker = requests.role(body)
    many = requests.conversations(body, may_be_empty=speaker == "user")
    each, offsets = (
        requests.sampling_settings_each(body, len(many)),
        served.steering.offsets_each(body, len(many)),
    )

    def prepare() -> list[GenerationRequest]:
        encoded = [served.text.conversation(one, role=speaker) for one in many]
        rows = zip(encoded, each, offsets, strict=True)
        return [served.ask(tokens, chosen.seed, chosen, offsets) for tokens, chosen, offsets in rows]

    # Off the event loop: encoding thousands of conversations would keep users waiting.
    asks = await asyncio.to_thread(prepare)
    version = served.weights.version
    answers = await served.answers(request, asks)
    results = [
        {"text": one.text, "token_ids": list(one.token_ids), "finish_reason": one.finish_reason}
        for one in answers
    ]
    return JSONResponse({"results": results, "model": served.name, **_versions(served, version)})


async def _events(served: Engine, ask: GenerationRequest, head: Fields) -> AsyncIterator[bytes]:
    """A chat answer as server-sent events, in OpenAI's form."""
    shown = {**head, "object": "chat.completion.chunk"}

    def event(delta: Fields, reason: str | None, **more: object) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return b"data: " + json.dumps({**shown, "choices": [choice], **more}).encode() + b"\n\n"

    yield event({"role": "assistant", "content": ""}, None)
    try:
        async for piece in served.stream(ask):
            if isinstance(piece, str):
                yield event({"content": piece}, None)
            else:
                usage = _usage(len(ask.tokens), (piece,))
                yield event(
                    {}, piece.finish_reason, usage=usage, **_versions(served, head["weights_version"])
                )
        yield b"data: [DONE]\n\n"
    except Cancelled:
        # The head of the answer has gone out: all that is left is to end it without [DONE].
        return


def _check_name(served: Engine, body: Fields) -> None:
    """Refuse a request for another model."""
    if body.get("model") not in (None, "", served.name, ALIAS):
        raise UnknownId(f"there is no model {body['model']!r} here; ask for {served.name!r}, or leave it out")


def _head(served: Engine, prefix: str, kind: str) -> Fields:
    """What every answer begins with."""
    return {
        "id": f"{prefix}-{next(_ids)}",
        "object": kind,
        "created": int(time.time()),
        "model": served.name,
        "weights_version": served.weights.version,
    }


def _versions(served: Engine, began: object) -> Fields:
    """The version of the weights that an answer began and ended with: they may change in between."""
    return {"weights_version": began, "weights_version_end": served.weights.version}


def _ending(answer: Generation) -> Fields:
    """How a choice ended."""
    return {"finish_reason": answer.finish_reason, "logprobs": None}


def _usage(prompt_tokens: int, answers: Sequence[Generation]) -> Fields:
    """Token counts, in OpenAI's form."""
    made = sum(len(answer.token_ids) for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": made,
        "total_tokens": prompt_tokens + made,
    }


def _done(
    served: Engine, head: Fields, found: Sequence[Fields], prompt_tokens: int, answers: Sequence[Generation]
) -> Response:
    """A whole answer, in OpenAI's form."""
    usage = _usage(prompt_tokens, answers)
    versions = _versions(served, head["weights_version"])
    return JSONResponse({**head, "choices": found, "usage": usage, **versions})
