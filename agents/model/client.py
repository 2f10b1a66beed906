"""The service's client of the served model: OpenAI-compatible HTTP, and our extensions to it.

Invariant: the client cuts a batch into pieces of BATCH_ROWS rows, in the order given, so the same prompts and
seeds always form the same pieces and get the same answers. Every failure raises `ModelUnavailable` with a
message that names the cure. This module knows nothing about torch or the tokenizer; both belong to the
server.
"""

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agents.model import meter
from agents.model.patience import patiently, progress_of
from agents.model.requests import BATCH_ROWS
from corpus.aliases import Json, Message
from corpus.errors import ModelUnavailable

TOKENIZE_ROWS = 1024
"""Most conversations or texts in one request to `/v1/batch/tokenize`."""
TIMEOUT_SECONDS = 120.0
"""Longest wait for one response; for one that a model generates, longest wait without any progress of the
server."""
PROGRESS_SECONDS = 10.0
"""Seconds between two looks at the progress of a server that generates."""
GENERATING = frozenset({"/v1/batch/chat", "/v1/chat/completions", "/v1/completions"})
"""Routes whose responses a model generates."""

_SAMPLE = re.compile(r'([\w:]+)(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?\s+(\S+)')
"""A line of Prometheus' text format: a name, labels in braces, and a value; a timestamp may follow."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation to answer or a text to continue, and the sampling settings of the answer."""

    messages: Sequence[Message]
    seed: int
    """From 0 to 2**64 - 1."""
    temperature: float
    max_tokens: int
    opens: str = "assistant"
    """Whose turn the model writes after the messages: `assistant` for an answer, `user` for a request."""
    text: str | None = None
    """A text that the model continues as it stands, in place of the messages; None to use the messages."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer."""
    top_p: float = 1.0
    """Share of the probability that tokens are drawn from, likeliest first: over 0, at most 1."""
    min_p: float = 0.0
    """Only tokens at least this share as likely as the likeliest are drawn: 0 to 1, 0 for all."""
    tools: Sequence[Json] = ()
    """Definitions of the tools that the chat template renders, in OpenAI's form."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer of the served model."""

    text: str
    token_ids: tuple[int, ...]
    """All generated tokens, including the one that ended the answer; () if the server does not list them."""
    finish_reason: str
    """Why the answer ended: `stop` (an end token or a stop string) or `length` (the limit of tokens)."""
    weights_version: int
    """Version of the weights when the answer began."""
    weights_version_end: int
    """Version of the weights when the answer ended; another number means that they changed in between."""
    tokens: int = 0
    """Number of generated tokens."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The server's description of its model."""

    name: str
    root: str
    """The model that the server was started with; "" if it does not say."""
    context: int
    """Most tokens of prompt and answer together."""
    end_token_ids: tuple[int, ...]
    """Tokens that end an answer."""
    weights_version: int
    weights_held: str
    """Id of the checkpoint that the shared weights hold; "" during an update."""
    weights_dirty: bool
    """Whether the weights may differ from every kept checkpoint: see `weights.header`."""


class ModelClient:
    """The client of one model server; `open_client` makes it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.started = 0
        """Answers that this client has requested so far; users' forwarded requests do not count."""
        self.in_flight = 0
        """Requested answers that have not arrived yet."""

    @contextmanager
    def _counted(self, rows: int) -> Iterator[None]:
        """Add `rows` answers to `started`, and to `in_flight` until the block ends."""
        self.started += rows
        self.in_flight += rows
        try:
            yield
        finally:
            self.in_flight -= rows

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 1.0,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        json_schema: Mapping[str, Any] | None = None,
        steer: Mapping[str, float] | None = None,
    ) -> Completion:
        """Return the model's answer to one conversation; it does not wait for a running batch.

        Args:
            messages: The conversation.
            temperature: 0 takes the most likely token each time.
            max_tokens: Most tokens of the answer; None leaves it to the server.
            seed: From 0 to 2**64 - 1; None lets the server draw one.
            stop: Strings that end the answer.
            json_schema: The JSON schema of the answer; without effect if the server supports no schemas.
            steer: The strength of steering for each concept; None for no steering.
        """
        body: Json = {"messages": list(map(dict, messages)), "temperature": temperature, "stop": list(stop)}
        optional: Json = {
            "max_tokens": max_tokens,
            "seed": seed,
            "steer": dict(steer) if steer else None,
        }
        if json_schema is not None:
            schema = {"name": "answer", "schema": json_schema}
            optional["response_format"] = {"type": "json_schema", "json_schema": schema}
        body |= {key: value for key, value in optional.items() if value is not None}
        try:
            with self._counted(1):
                answer = await self._post("/v1/chat/completions", body)
        except ModelUnavailable as refused:
            if "response_format" not in body or "response_format" not in str(refused):
                raise
            del body[
                "response_format"
            ]  # this server supports no schemas; the caller checks the answer anyway
            with self._counted(1):
                answer = await self._post("/v1/chat/completions", body)
        choice = answer["choices"][0]
        return _completion({**choice, "text": choice["message"]["content"] or ""}, answer)

    async def batch_chat(
        self, prompts: Sequence[Prompt], *, steer: Mapping[str, float] | None = None
    ) -> list[Completion]:
        """Return one generated turn for each prompt, in the order of the prompts.

        Args:
            prompts: The conversations or texts, with their sampling settings.
            steer: The strength of steering for each concept, the same for all prompts; None for no steering.
        """
        completions: list[Completion] = []
        for first in range(0, len(prompts), BATCH_ROWS):
            piece = prompts[first : first + BATCH_ROWS]
            body = _batch_body(piece) | ({"steer": dict(steer)} if steer else {})
            with self._counted(len(piece)):
                answer = await self._post("/v1/batch/chat", body)
            completions += [_completion(result, answer) for result in answer["results"]]
        return completions

    async def tokenize(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        tools: Sequence[Sequence[Json]] = (),
        add_generation_prompt: bool = True,
        opens: str = "assistant",
    ) -> list[list[int]]:
        """Return the tokens of each conversation, as the model's chat template renders it.

        With `add_generation_prompt` they end with the opening of the next turn; `opens` says whose it is.
        `tools` has the definitions of each conversation's tools; () for none at all.
        """
        tokens: list[list[int]] = []
        for first in range(0, len(conversations), TOKENIZE_ROWS):
            piece = slice(first, first + TOKENIZE_ROWS)
            plain = [list(map(dict, messages)) for messages in conversations[piece]]
            more = {"add_generation_prompt": add_generation_prompt, **_tools(tools[piece])}
            more |= {"role": opens} if opens != "assistant" else {}
            tokens += await self._tokens("conversations", plain, more)
        return tokens

    async def tokenize_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text; the text is data, so no part of it becomes a control token."""
        return await self._tokens("texts", texts, {})

    async def served_model(self) -> ServedModel:
        """Return the server's description of its model."""
        card = (await self._request("GET", "/v1/models"))["data"][0]
        return ServedModel(
            name=card["id"],
            root=card.get("root") or "",
            context=card["max_model_len"],
            end_token_ids=tuple(card.get("end_token_ids", ())),
            weights_version=card.get("weights_version", 0),
            weights_held=card.get("weights_held", ""),
            weights_dirty=card.get("weights_dirty", False),
        )

    async def health(self) -> bool:
        """Return whether the server answers."""
        try:
            return (await self._http.get("/health")).status_code == 200
        except httpx.TransportError:
            return False

    async def metrics(self) -> dict[str, float]:
        """Return the value of each of the server's metrics by name, summed over the metric's labels."""
        return parse_metrics((await self._send("GET", "/metrics", None)).text)

    async def forward(
        self, method: str, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]
    ) -> httpx.Response:
        """Forward a user's own request unchanged, and return the response with its body still unread.

        The caller reads the body and closes the response. If `headers` has no Authorization, the request
        carries the service's token. Reading has no time limit here, because the user's client has its own.
        """
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
        request = self._http.build_request(method, path, content=body, headers=list(headers), timeout=timeout)
        try:
            return await self._http.send(request, stream=True)
        except httpx.TransportError as error:
            raise ModelUnavailable(
                f"the model server cannot be reached ({error or type(error).__name__}); "
                "try again in some seconds"
            ) from error

    async def _tokens(self, name: str, rows: Sequence[object], more: Mapping[str, object]) -> list[list[int]]:
        """Return the tokens of each row, from requests of at most TOKENIZE_ROWS rows each.

        Args:
            name: The request's field for the rows: `conversations` or `texts`.
            rows: The conversations or texts.
            more: The request's other fields.
        """
        tokens: list[list[int]] = []
        for first in range(0, len(rows), TOKENIZE_ROWS):
            piece = list(rows[first : first + TOKENIZE_ROWS])
            tokens += (await self._post("/v1/batch/tokenize", {name: piece, **more}))["tokens"]
        return tokens

    async def _post(self, path: str, body: Mapping[str, object]) -> Any:
        return await self._request("POST", path, body)

    async def _progress(self) -> float:
        return progress_of(await self.metrics())

    async def _request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Return the JSON of a successful response."""
        response = await self._send(method, path, body)
        try:
            return response.json()
        except ValueError as error:
            raise ModelUnavailable(f"the model server's answer to {path} is not JSON; restart it") from error

    async def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        """Return a successful response; raise `ModelUnavailable` for any other."""
        try:
            response = await self._responded(method, path, body)
        except (httpx.TimeoutException, TimeoutError) as error:
            raise ModelUnavailable(
                f"the model server did not answer {path} in time; see `nightschool status` for what runs"
            ) from error
        except httpx.TransportError as error:
            raise ModelUnavailable(
                f"the model server cannot be reached ({error or type(error).__name__}); start the service"
            ) from error
        if response.is_success:
            return response
        raise ModelUnavailable(_refusal(path, response))

    async def _responded(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        """Return the response, whatever it says. A model may take as long for it as it makes progress."""
        if path not in GENERATING:
            return await self._http.request(method, path, json=body, timeout=TIMEOUT_SECONDS)
        unlimited = httpx.Timeout(TIMEOUT_SECONDS, read=None)
        return await patiently(
            lambda: self._http.request(method, path, json=body, timeout=unlimited),
            self._progress,
            limit=TIMEOUT_SECONDS,
            every=PROGRESS_SECONDS,
        )


@asynccontextmanager
async def open_client(
    *, token: str, socket: Path | None = None, base_url: str = "http://nightschool"
) -> AsyncIterator[ModelClient]:
    """Open a client of a model server, and close it at the end of the block.

    Args:
        token: The bearer token of each request; "" sends none.
        socket: The server's unix socket; None for a server that listens at `base_url`.
        base_url: The server's address; over a unix socket only the Host header is taken from it.
    """
    transport = None if socket is None else httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(
        transport=transport,
        base_url=base_url,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=TIMEOUT_SECONDS,
        limits=httpx.Limits(max_connections=None),  # users' streams must not block our own requests
        # A proxy from the environment would carry the token off this machine.
        trust_env=False,
    ) as http:
        yield ModelClient(http)


def _batch_body(prompts: Sequence[Prompt]) -> Json:
    """Return the body of a request to `/v1/batch/chat`; it names what differs from the route's defaults."""
    body: Json = {
        "conversations": [list(map(dict, prompt.messages)) for prompt in prompts],
        "seeds": [prompt.seed for prompt in prompts],
        "temperature": [prompt.temperature for prompt in prompts],
        "max_tokens": [prompt.max_tokens for prompt in prompts],
        **_tools([prompt.tools for prompt in prompts]),
    }
    optional: dict[str, tuple[list[Any], object]] = {
        "role": ([prompt.opens for prompt in prompts], "assistant"),
        "raw": ([prompt.text for prompt in prompts], None),
        "stops": ([list(prompt.stop) for prompt in prompts], []),
        "top_p": ([prompt.top_p for prompt in prompts], 1.0),
        "min_p": ([prompt.min_p for prompt in prompts], 0.0),
    }
    return body | {name: each for name, (each, usual) in optional.items() if any(v != usual for v in each)}


def _tools(tools: Sequence[Sequence[Json]]) -> Json:
    """Return the field for the tools of each conversation of a request; {} if none has any."""
    return {"tools": [list(each) for each in tools]} if any(tools) else {}


def _completion(result: Json, answer: Json) -> Completion:
    """Return the completion for one `result` of the server's `answer`, and count its tokens.

    The answer names the versions of the weights.
    """
    version: int = answer.get("weights_version", 0)
    token_ids = tuple(result.get("token_ids") or ())
    tokens = len(token_ids) or int((answer.get("usage") or {}).get("completion_tokens") or 0)
    meter.count(generated=tokens)
    return Completion(
        text=result["text"],
        token_ids=token_ids,
        tokens=tokens,
        finish_reason=result["finish_reason"],
        weights_version=version,
        weights_version_end=answer.get("weights_version_end", version),
    )


def parse_metrics(text: str) -> dict[str, float]:
    """Return the values in a text in Prometheus' format by metric name, summed over the labels."""
    values: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        if sample := _SAMPLE.match(line):
            values[sample[1]] += float(sample[2])
    return dict(values)


def _refusal(path: str, response: httpx.Response) -> str:
    """Return the error message for a refused request; it quotes the server's reason."""
    try:
        sentence = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        sentence = "it gave no reason; see its log"
    return f"the model server refused {path} ({response.status_code}): {sentence}"
