"""The batch routes on a user's own vLLM, with the same requests and answers as on the embedded server.

    POST /v1/batch/chat       answers to many conversations, each with its own seed
    POST /v1/batch/tokenize   tokens of many conversations or texts

A row is one conversation with its answer, and one request to vLLM's engine. All batches together use at most
half of the requests that the engine runs at once (its seats), so that users do not queue behind them. vLLM
checks access, as for all routes under /v1.

Invariant: text in a message is data, as in `embedded.chat`. Work on many rows runs off the event loop. When a
client disconnects, its rows are aborted. An answer depends on its prompt, seed and settings, and on the
engine's other work, which affects the last bits of a logit. This module does not know who changes the
weights.
"""

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from agents.model import requests
from agents.model.embedded.chat import ChatTokenizer
from agents.model.requests import SEED_SPACE
from agents.model.weights.header import read_state
from corpus.aliases import Json, Message
from corpus.errors import ModelUnavailable, UnknownId, UsageError

ALIAS = "nightschool"
"""A model name that always means the served model, as on the embedded server."""
CLIENT_GONE = 499
"""HTTP status of the response to a client that has disconnected, which nobody reads."""
T = TypeVar("T")
_ids = count(1)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row, ready for the engine."""

    tokens: list[int]
    """The prompt."""
    params: Any
    """vLLM's SamplingParams."""
    stop: tuple[str, ...]
    """Strings that end the answer."""


@dataclass(frozen=True, kw_only=True)
class BatchRoutes:
    """The handlers of the two batch routes, which generate with one engine of vLLM."""

    engine: Any
    """vLLM's EngineClient."""
    names: tuple[str, ...]
    """The names of the served model; the first one is in the answers."""
    text: ChatTokenizer | None
    """The model's tokenizer; None if it is not a fast one of Hugging Face's."""
    weights_file: Path
    """The file of the shared weights."""
    seats: asyncio.Semaphore
    """The number of rows that may run in the engine at once."""

    async def chat(self, request: Request) -> Response:
        """Handle `POST /v1/batch/chat`."""
        raw = await request.body()
        rows = await asyncio.to_thread(self._prepared, raw)
        first_version = self._version()
        outputs = await unless_gone(request, self._answers(rows))
        if outputs is None:
            return Response(status_code=CLIENT_GONE)
        versions = {"weights_version": first_version, "weights_version_end": self._version()}
        content = await asyncio.to_thread(self._rendered, rows, outputs, versions)
        return Response(content, media_type="application/json")

    async def tokenize(self, request: Request) -> Response:
        """Handle `POST /v1/batch/tokenize`."""
        raw = await request.body()

        def work() -> bytes:
            return json.dumps({"tokens": self._text().encode_many(requests.parse_body(raw))}).encode()

        return Response(await asyncio.to_thread(work), media_type="application/json")

    def _text(self) -> ChatTokenizer:
        if self.text is None:
            raise UsageError(
                "this model's tokenizer is not a fast one of Hugging Face's: it cannot be trained on"
            )
        return self.text

    def _version(self) -> int:
        """Return the version of the served weights; 0 if none are shared."""
        state = read_state(self.weights_file)
        return state.version if state else 0

    def _prepared(self, raw: bytes) -> list[_Row]:
        """Return the rows of a request body, once it is checked; this runs in a thread."""
        body = requests.parse_body(raw)
        self._check_name(body)
        if body.get("steer") is not None:
            raise UsageError(
                "the batch routes cannot steer on vLLM; send single requests to /v1/chat/completions"
            )
        encoded, ends = self._text().encode_rows(body), self._text().more_ends(body)
        each = requests.sampling_settings_each(body, len(encoded))
        return [self._row(*row) for row in zip(encoded, each, ends, strict=True)]

    def _row(self, tokens: list[int], chosen: requests.SamplingSettings, end_ids: Sequence[int] = ()) -> _Row:
        """Return one row with vLLM's sampling settings; raise `UsageError` if it does not fit the model.

        `end_ids` are tokens that end the answer, beside the model's own.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        config = self.engine.model_config
        wanted = requests.answer_limit(
            tokens, chosen.max_tokens, context=config.max_model_len, vocab_size=config.get_vocab_size()
        )
        params = SamplingParams(
            temperature=chosen.temperature,
            top_p=chosen.top_p,
            min_p=chosen.min_p,
            stop_token_ids=list(end_ids),
            max_tokens=wanted,
            seed=signed(chosen.seed),
            stop=list(chosen.stop),
            detokenize=bool(chosen.stop),  # only the search for stop strings needs text; see `_result`
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"readout": False},  # a batch carries no readings
        )
        return _Row(tokens=tokens, params=params, stop=chosen.stop)

    def _check_name(self, body: Json) -> None:
        """Raise `UnknownId` if the request names another model."""
        if body.get("model") not in (None, "", ALIAS, *self.names):
            raise UnknownId(
                f"there is no model {body['model']!r} here; name {self.names[0]!r}, or leave it out"
            )

    async def _answers(self, rows: Sequence[_Row]) -> list[Any]:
        """Return vLLM's output for each row, in order; if one row fails, all end and its error is raised."""
        name = f"nightschool-batch-{next(_ids)}"
        try:
            async with asyncio.TaskGroup() as tasks:
                jobs = []
                for number, row in enumerate(rows):
                    await self.seats.acquire()
                    job = tasks.create_task(self._answer(row, f"{name}-{number}"))
                    job.add_done_callback(lambda _: self.seats.release())
                    jobs.append(job)
                    await asyncio.sleep(0)  # users' requests must get their turn between thousands of rows
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [job.result() for job in jobs]

    async def _answer(self, row: _Row, name: str) -> Any:
        """Return vLLM's output for one row."""
        from vllm.inputs import tokens_input

        states = [state async for state in self.engine.generate(tokens_input(row.tokens), row.params, name)]
        if not states or states[-1].outputs[0].finish_reason not in ("stop", "length"):
            raise ModelUnavailable("vLLM ended a row before it was complete; see its log, then try again")
        return states[-1].outputs[0]

    def _rendered(self, rows: Sequence[_Row], outputs: Sequence[Any], versions: dict[str, int]) -> bytes:
        """Return the JSON of the answer to a batch; this runs in a thread."""
        results = [self._result(row, output) for row, output in zip(rows, outputs, strict=True)]
        return json.dumps({"results": results, "model": self.names[0], **versions}).encode()

    def _result(self, row: _Row, output: Any) -> Json:
        """Return the JSON result of one row; its text is that of the tokens, up to the first stop string."""
        tokens = list(output.token_ids)
        text = self._text().decode(tokens)
        stops = [start for part in row.stop if (start := text.find(part)) >= 0]
        return {
            "text": text[: min(stops)] if stops else text,
            "token_ids": tokens,
            "finish_reason": output.finish_reason,
        }


def signed(seed: int) -> int:
    """Return a seed from 0 to 2**64 - 1 as the signed 64-bit number that vLLM takes.

    It is never -1, which means no seed to vLLM.
    """
    number = seed if seed < SEED_SPACE // 2 else seed - SEED_SPACE
    return number if number != -1 else SEED_SPACE // 2 - 1


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `work`; if the client disconnects before, cancel the work and return None.

    The body of the request must have been read already.
    """
    job, gone = asyncio.create_task(work), asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
        return job.result() if job.done() else None
    finally:
        gone.cancel()
        if not job.done():
            job.cancel()
            await asyncio.wait((job,))


async def _until_gone(request: Request) -> None:
    """Return when the client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def batch_routes(engine: Any, args: Any, weights_file: Path) -> BatchRoutes:
    """Return the handlers of the batch routes.

    Args:
        engine: vLLM's EngineClient.
        args: The parsed command line of vLLM.
        weights_file: The file of the shared weights.
    """
    named = args.served_model_name or [args.model]
    return BatchRoutes(
        engine=engine,
        names=tuple([named] if isinstance(named, str) else named),
        text=await asyncio.to_thread(_chat_text, engine.renderer.tokenizer, args),
        weights_file=weights_file,
        seats=asyncio.Semaphore(max(1, engine.vllm_config.scheduler_config.max_num_seqs // 2)),
    )


def _chat_text(tokenizer: Any, args: Any) -> ChatTokenizer | None:
    """Return the model's tokenizer with the chat template of vLLM's options; None if it is not a fast one.

    `args` is the parsed command line of vLLM.
    """
    from vllm.renderers.chat_utils import load_chat_template

    if not hasattr(tokenizer, "backend_tokenizer"):
        return None
    options = {**(args.default_chat_template_kwargs or {})}
    if (template := load_chat_template(args.chat_template)) is not None:
        options["chat_template"] = template
    return ChatTokenizer(_Templated(tokenizer, options))


class _Templated:
    """A tokenizer whose chat template always gets these options, as vLLM's chat route passes them.

    Tools are written as that route writes them, with a null for what a definition lacks.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any]) -> None:
        self.backend_tokenizer = tokenizer.backend_tokenizer
        self.get_vocab = tokenizer.get_vocab
        self._apply = partial(tokenizer.apply_chat_template, **options)

    def apply_chat_template(self, messages: Sequence[Message], *, tools: Any = None, **settings: Any) -> Any:
        """Return what the tokenizer makes of these messages and tools."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam

        offered = [ChatCompletionToolsParam(**tool).model_dump() for tool in tools or ()]
        return self._apply(messages, tools=offered or None, **settings)
