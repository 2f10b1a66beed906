"""Many rows at once on a user's own vLLM: the embedded server's two routes, in exactly its forms.

    POST /v1/batch/chat       answers to many conversations, a seed each
    POST /v1/batch/tokenize   tokens of many conversations or texts

Each row is one request to the engine. At most half of the engine's seats are taken, by all batches together, so that
users do not stand in line behind them. Who may ask is vLLM's own affair, as under all of /v1.

Invariant: what people wrote is data, as in `chat.py`; work on many rows is done off the event loop; when the asker
has gone, his rows are aborted. An answer depends on its prompt, seed and settings, and in the last bits of a logit on
what else the engine had to do. Does not know who changes the weights.
"""

import asyncio
import json
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from agents.model import requests
from agents.model.embedded.chat import ChatTokenizer
from agents.model.requests import SEED_SPACE, Body
from agents.model.weights.header import read_state
from corpus.errors import ModelUnavailable, UnknownId, UsageError

ALIAS = "nightschool"
"""A model name that always means the served one, as on the embedded server."""
CLIENT_GONE = 499
"""Status that nobody will read."""
T = TypeVar("T")
_ids = count(1)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row, ready for the engine."""

    tokens: list[int]
    params: Any
    """vLLM's SamplingParams."""
    stop: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The two routes' work, over one engine."""

    engine: Any
    """vLLM's EngineClient."""
    names: tuple[str, ...]
    """What the model is called here, its own name first."""
    text: ChatTokenizer | None
    """None for a tokenizer that we cannot use."""
    mapping: Path
    seats: asyncio.Semaphore

    async def chat(self, request: Request) -> Response:
        """`POST /v1/batch/chat`."""
        raw = await request.body()
        rows = await asyncio.to_thread(self._prepared, raw)
        began = self._version()
        outputs = await unless_gone(request, self._answers(rows))
        if outputs is None:
            return Response(status_code=CLIENT_GONE)
        versions = {"weights_version": began, "weights_version_end": self._version()}
        return Response(
            await asyncio.to_thread(self._rendered, rows, outputs, versions), media_type="application/json"
        )

    async def tokenize(self, request: Request) -> Response:
        """`POST /v1/batch/tokenize`."""
        raw = await request.body()

        def work() -> bytes:
            return json.dumps({"tokens": self._text().many(requests.parse_body(raw))}).encode()

        return Response(await asyncio.to_thread(work), media_type="application/json")

    def _text(self) -> ChatTokenizer:
        if self.text is None:
            raise UsageError(
                "this model's tokenizer is not a fast one of Hugging Face's: it cannot be trained on"
            )
        return self.text

    def _version(self) -> int:
        """Version of the served weights; 0 where none are shared."""
        words = read_state(self.mapping)
        return words.version if words else 0

    def _prepared(self, raw: bytes) -> list[_Row]:
        """The rows that a request asks for, checked; in a thread."""
        body = requests.parse_body(raw)
        self._check_name(body)
        if body.get("steer") is not None:
            raise UsageError("the batch routes do not steer here; ask one by one at /v1/chat/completions")
        speaker, text = requests.role(body), self._text()
        many = requests.conversations(body, may_be_empty=speaker == "user")
        each = requests.sampling_settings_each(body, len(many))
        return [
            self._row(text.conversation(one, role=speaker), chosen)
            for one, chosen in zip(many, each, strict=True)
        ]

    def _row(self, tokens: list[int], chosen: requests.SamplingSettings) -> _Row:
        """One row, its lengths checked."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        config = self.engine.model_config
        wanted = requests.answer_limit(
            tokens, chosen.max_tokens, context=config.max_model_len, vocab_size=config.get_vocab_size()
        )
        params = SamplingParams(
            temperature=chosen.temperature,
            top_p=chosen.top_p,
            max_tokens=wanted,
            seed=signed(chosen.seed),
            stop=list(chosen.stop),
            detokenize=bool(
                chosen.stop
            ),  # the engine needs text to find a stop in; ours is made from the tokens
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"readout": False},  # nobody asks for a row's readings
        )
        return _Row(tokens=tokens, params=params, stop=chosen.stop)

    def _check_name(self, body: Body) -> None:
        """Refuse a request for another model."""
        if body.get("model") not in (None, "", ALIAS, *self.names):
            raise UnknownId(
                f"there is no model {body['model']!r} here; ask for {self.names[0]!r}, or leave it out"
            )

    async def _answers(self, rows: Sequence[_Row]) -> list[Any]:
        """vLLM's output for each row, in order; one row that fails ends them all."""
        name = f"nightschool-batch-{next(_ids)}"
        try:
            async with asyncio.TaskGroup() as tasks:
                jobs = []
                for number, row in enumerate(rows):
                    await self.seats.acquire()
                    job = tasks.create_task(self._answer(row, f"{name}-{number}"))
                    job.add_done_callback(lambda _: self.seats.release())
                    jobs.append(job)
                    await asyncio.sleep(0)  # thousands of rows begun in one go would keep users waiting
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [job.result() for job in jobs]

    async def _answer(self, row: _Row, name: str) -> Any:
        """vLLM's output for one row."""
        from vllm.inputs import tokens_input

        found = [output async for output in self.engine.generate(tokens_input(row.tokens), row.params, name)]
        if not found or found[-1].outputs[0].finish_reason not in ("stop", "length"):
            raise ModelUnavailable("vLLM gave a row up before it had ended; see its log, then ask again")
        return found[-1].outputs[0]

    def _rendered(self, rows: Sequence[_Row], outputs: Sequence[Any], versions: dict[str, int]) -> bytes:
        """The answer's JSON; in a thread."""
        results = [self._result(row, output) for row, output in zip(rows, outputs, strict=True)]
        return json.dumps({"results": results, "model": self.names[0], **versions}).encode()

    def _result(self, row: _Row, output: Any) -> dict[str, Any]:
        """One result: its text is that of its tokens, up to the stop string if one was met."""
        tokens = list(output.token_ids)
        text = self._text().decode(tokens)
        met = [place for part in row.stop if (place := text.find(part)) >= 0]
        return {
            "text": text[: min(met)] if met else text,
            "token_ids": tokens,
            "finish_reason": output.finish_reason,
        }


def signed(seed: int) -> int:
    """A seed from 0 to 2**64 - 1 as vLLM takes them: 64 bits with a sign, where -1 means none."""
    number = seed if seed < SEED_SPACE // 2 else seed - SEED_SPACE
    return number if number != -1 else SEED_SPACE // 2 - 1


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result; None, and the work cancelled, when the asker hangs up. The body must have been read."""
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
    """Until the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def make_batches(engine: Any, args: Any, mapping: Path) -> Batches:
    """The routes' work for this engine; `args` is what vLLM was started with."""
    named = args.served_model_name or [args.model]
    return Batches(
        engine=engine,
        names=tuple([named] if isinstance(named, str) else named),
        text=await asyncio.to_thread(_chat_text, engine.renderer.tokenizer, args),
        mapping=mapping,
        seats=asyncio.Semaphore(max(1, engine.vllm_config.scheduler_config.max_num_seqs // 2)),
    )


def _chat_text(tokenizer: Any, args: Any) -> ChatTokenizer | None:
    """The model's own tokenizer and the template that its users are served with."""
    from vllm.renderers.chat_utils import load_chat_template

    if not hasattr(tokenizer, "backend_tokenizer"):
        return None
    given = {**(args.default_chat_template_kwargs or {})}
    if (template := load_chat_template(args.chat_template)) is not None:
        given["chat_template"] = template
    return ChatTokenizer(_Templated(tokenizer, given))


class _Templated:
    """A tokenizer whose template is filled in with what vLLM was started with."""

    def __init__(self, tokenizer: Any, given: dict[str, Any]) -> None:
        self.backend_tokenizer = tokenizer.backend_tokenizer
        self.apply_chat_template = partial(tokenizer.apply_chat_template, **given)
