"""The service's way to the served model: OpenAI-compatible HTTP and our extensions to it.

Invariant: a batch is cut into pieces of BATCH_ROWS in the order given, so the same prompts and seeds always
form the same pieces and get the same answers. Every failure is a `ModelUnavailable` that says what to do.
Knows neither torch nor the tokenizer: both live with the server.
"""

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agents.model.requests import BATCH_ROWS
from corpus.errors import ModelUnavailable

TOKENIZE_ROWS = 1024
"""Texts tokenized in one request."""
TIMEOUT_SECONDS = 120.0
"""Longest wait for one piece: two minutes is forty times what the embedded model needs."""

_SAMPLE = re.compile(r'([\w:]+)(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?\s+(\S+)')
"""A line of Prometheus' text format: name, labels, value; a time may follow."""

Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What to answer, and how."""

    messages: Sequence[Message]
    """Each with `role` and `content`."""
    seed: int
    """From 0 to 2**64 - 1."""
    temperature: float
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer of the served model."""

    text: str
    token_ids: tuple[int, ...]
    """All that was generated, the closing token included; () where the server does not say."""
    finish_reason: str
    """`stop` or `length`."""
    weights_version: int
    """Version of the weights when the answer began."""
    weights_version_end: int
    """Version when it ended; another one than at the start means that an update ran in between."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What is being served."""

    name: str
    root: str
    """What the server was told to load; "" where it does not say."""
    context: int
    """Most tokens of prompt and answer together."""
    end_token_ids: tuple[int, ...]
    """Tokens that end an answer."""
    weights_version: int
    weights_held: str
    """Id of the checkpoint that the mapping holds; "" in mid-update."""
    weights_dirty: bool


class ModelClient:
    """Asks the served model. Make one with `open_client`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.begun = 0
        """Answers that we have asked for, ever; users' own requests, which are passed on, are not counted."""
        self.in_flight = 0
        """Of these, the ones that have not come."""

    @contextmanager
    def _counted(self, rows: int) -> Iterator[None]:
        """While so many answers are asked for."""
        self.begun += rows
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
        """One answer, at once even while a batch runs; with `json_schema`, in that form where the server can.

        `steer`: concepts and strengths that the answer is steered by.
        """
        body: dict[str, Any] = {
            "messages": list(map(dict, messages)),
            "temperature": temperature,
            "stop": list(stop),
        }
        more: dict[str, Any] = {
            "max_tokens": max_tokens,
            "seed": seed,
            "steer": dict(steer) if steer else None,
        }
        if json_schema is not None:
            form = {"name": "answer", "schema": json_schema}
            more["response_format"] = {"type": "json_schema", "json_schema": form}
        body |= {key: value for key, value in more.items() if value is not None}
        try:
            with self._counted(1):
                found = await self._post("/v1/chat/completions", body)
        except ModelUnavailable as refused:
            if "response_format" not in body or "response_format" not in str(refused):
                raise
            del body["response_format"]  # a server that knows no forms: the caller checks the answer anyway
            with self._counted(1):
                found = await self._post("/v1/chat/completions", body)
        choice = found["choices"][0]
        return _completion({**choice, "text": choice["message"]["content"] or ""}, found)

    async def batch_chat(
        self, prompts: Sequence[Prompt], *, role: str = "assistant", steer: Mapping[str, float] | None = None
    ) -> list[Completion]:
        """Answers to many prompts, in their order; with role `user`, the user's next turns instead.

        `steer`: concepts and strengths that all of them are steered by.
        """
        completions: list[Completion] = []
        for first in range(0, len(prompts), BATCH_ROWS):
            piece = prompts[first : first + BATCH_ROWS]
            body = {
                "conversations": [list(map(dict, prompt.messages)) for prompt in piece],
                "seeds": [prompt.seed for prompt in piece],
                "temperature": [prompt.temperature for prompt in piece],
                "max_tokens": [prompt.max_tokens for prompt in piece],
                "role": role,
                **({"steer": dict(steer)} if steer else {}),
            }
            with self._counted(len(piece)):
                found = await self._post("/v1/batch/chat", body)
            completions += [_completion(one, found) for one in found["results"]]
        return completions

    async def tokenize(
        self, conversations: Sequence[Sequence[Message]], *, add_generation_prompt: bool = True
    ) -> list[list[int]]:
        """Tokens of each conversation, by the model's chat template."""
        plain = [list(map(dict, messages)) for messages in conversations]
        return await self._tokens("conversations", plain, {"add_generation_prompt": add_generation_prompt})

    async def tokenize_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, taken as data: none becomes a control token."""
        return await self._tokens("texts", texts, {})

    async def models(self) -> ServedModel:
        """What is being served."""
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
        """Whether the server answers."""
        try:
            return (await self._http.get("/health")).status_code == 200
        except httpx.TransportError:
            return False

    async def metrics(self) -> dict[str, float]:
        """The server's numbers, by name; those that differ in their labels only are added up."""
        return parse_metrics((await self._send("GET", "/metrics", None)).text)

    async def pass_on(
        self, method: str, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]
    ) -> httpx.Response:
        """A user's own request, as it is; the answer's body is read, and closed, by the caller.

        Without an Authorization among the headers it goes out under ours. No time limit: the user has one.
        """
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
        request = self._http.build_request(method, path, content=body, headers=list(headers), timeout=timeout)
        try:
            return await self._http.send(request, stream=True)
        except httpx.TransportError as error:
            raise ModelUnavailable(
                f"the model server cannot be reached ({error or type(error).__name__}); try again in some seconds"
            ) from error

    async def _tokens(self, name: str, rows: Sequence[object], more: Mapping[str, object]) -> list[list[int]]:
        """Tokenize rows in pieces."""
        tokens: list[list[int]] = []
        for first in range(0, len(rows), TOKENIZE_ROWS):
            piece = list(rows[first : first + TOKENIZE_ROWS])
            tokens += (await self._post("/v1/batch/tokenize", {name: piece, **more}))["tokens"]
        return tokens

    async def _post(self, path: str, body: Mapping[str, object]) -> Any:
        return await self._request("POST", path, body)

    async def _request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The JSON of an answer."""
        response = await self._send(method, path, body)
        try:
            return response.json()
        except ValueError as error:
            raise ModelUnavailable(f"the model server's answer to {path} is not JSON; restart it") from error

    async def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        """A good answer, or `ModelUnavailable`."""
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise ModelUnavailable(
                f"the model server did not answer {path} in time; see `nightschool status` for what runs"
            ) from error
        except httpx.TransportError as error:
            raise ModelUnavailable(
                f"the model server cannot be reached ({error or type(error).__name__}); start the service"
            ) from error
        if response.is_success:
            return response
        raise ModelUnavailable(_complaint(path, response))


@asynccontextmanager
async def open_client(
    *, token: str, socket: Path | None = None, base_url: str = "http://nightschool"
) -> AsyncIterator[ModelClient]:
    """A client of the server at this unix socket, or at `base_url`; with "" for a token it shows none."""
    transport = None if socket is None else httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(
        transport=transport,
        base_url=base_url,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=TIMEOUT_SECONDS,
        limits=httpx.Limits(max_connections=None),  # users' streams must not keep our own requests waiting
        # The environment's proxies would carry the token off this machine.
        trust_env=False,
    ) as http:
        yield ModelClient(http)


def _completion(one: Mapping[str, Any], found: Mapping[str, Any]) -> Completion:
    """A completion from one result and the answer around it."""
    version = found.get("weights_version", 0)
    return Completion(
        text=one["text"],
        token_ids=tuple(one.get("token_ids") or ()),
        finish_reason=one["finish_reason"],
        weights_version=version,
        weights_version_end=found.get("weights_version_end", version),
    )


def parse_metrics(text: str) -> dict[str, float]:
    """The values in Prometheus' text format by name, added up over their labels."""
    found: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        if sample := _SAMPLE.match(line):
            found[sample[1]] += float(sample[2])
    return dict(found)


def _complaint(path: str, response: httpx.Response) -> str:
    """The server's own sentence about a request it refused."""
    try:
        sentence = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        sentence = "it gave no reason; see its log"
    return f"the model server refused {path} ({response.status_code}): {sentence}"
