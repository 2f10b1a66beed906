"""The fields of a request to the embedded server, read from its JSON and checked.

Invariant: each field that a client sends either becomes a valid value, or raises `UsageError` with a sentence
that says what to change. This module knows nothing about the tokenizer or the model: the size of the
vocabulary and of the context are arguments. The routes on a user's own vLLM use this module too.

The checks are written by hand, without pydantic, for three reasons: each sentence names the OpenAI field and
the cure; the meaning of a field depends on other fields (lists by row, `max_completion_tokens`); and OpenAI's
fields that this server does not support are allowed at their neutral values.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agents.model.chat_messages import messages, text, tools
from corpus.aliases import Json, Message
from corpus.errors import UsageError
from corpus.json_edge import parse

BATCH_ROWS = 128
"""Rows that the client asks for together."""
MAX_ROWS = 4096
"""Largest number of rows in one request."""
MAX_N = 128
"""Largest number of choices in one chat request."""
MAX_TEMPERATURE = 10.0
"""Highest temperature: above it every model produces noise."""
MAX_STOPS = 16
"""Most stop strings of a request: the server searches for each of them at every token."""
DEFAULT_MAX_TOKENS = 256
"""Tokens of a chat answer when the request sets no limit."""
SEED_SPACE = 2**64
"""The number of seeds: the sampler takes keys of 64 bits."""
NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "top_logprobs": (0,),
}
"""OpenAI's settings that this server does not support, with the values at which it may ignore them."""
TEMPLATE_ARGUMENTS = frozenset(
    "conversation messages tools documents chat_template add_generation_prompt continue_final_message "
    "tokenize padding truncation max_length return_tensors return_dict return_assistant_tokens_mask "
    "tokenizer_kwargs".split()
)
"""Arguments of transformers' `apply_chat_template`; a request may not set them, as they are not variables of
the template."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """The sampling settings of one row."""

    temperature: float
    top_p: float
    min_p: float
    """Share of the likeliest token's probability below which a token is never drawn; 0 for no limit."""
    max_tokens: int | None
    """None means DEFAULT_MAX_TOKENS, or fewer if the context has less space left."""
    stop: tuple[str, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """One row of a batch: a conversation whose next turn is written, or a text that is continued."""

    messages: list[Message]
    """The conversation; it is not used if there is a text."""
    role: str
    """Whose turn is written: `assistant` or `user`."""
    text: str | None
    """The text that is continued as it stands; None for a conversation."""
    tools: list[Json] = field(default_factory=list)
    """Definitions of the tools that the chat template renders with the conversation."""


def parse_body(raw: bytes) -> Json:
    """Return the JSON object of a request."""
    try:
        body = parse(raw)
    except ValueError as error:
        raise UsageError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise UsageError("the body must be a JSON object")
    for name, values in NEUTRAL.items():
        if body.get(name) is not None and body[name] not in values:
            raise UsageError(f"{name} is not supported here; leave it out")
    return body


def sampling_settings(body: Json, *, default_max_tokens: int | None) -> SamplingSettings:
    """Return the sampling settings of a request.

    `default_max_tokens` becomes its `max_tokens` if the request sets no limit.
    """
    limit = body.get("max_completion_tokens")
    limit = body.get("max_tokens") if limit is None else limit
    return SamplingSettings(
        temperature=_number(body, "temperature", 1.0, 0.0, MAX_TEMPERATURE),
        top_p=_top_p(body),
        min_p=_number(body, "min_p", 0.0, 0.0, 1.0),
        max_tokens=default_max_tokens if limit is None else _whole(limit, "max_tokens", 1, 2**31),
        stop=_stop(body.get("stop")),
        seed=secrets.randbelow(SEED_SPACE) if body.get("seed") is None else _seed(body["seed"], "seed"),
    )


def sampling_settings_each(body: Json, count: int) -> list[SamplingSettings]:
    """Return the sampling settings of each of the `count` rows of a request.

    `temperature`, `max_tokens`, `top_p` and `min_p` may be lists with one value for each row. `stops` is a
    list with the stop strings of each row; without it the request's `stop` is for all rows.
    """
    whole = {name: body[name] for name in body if not isinstance(body[name], list) or name == "stop"}
    first = sampling_settings(whole, default_max_tokens=None)
    rows = [{**whole} for _ in range(count)]
    for name in ("temperature", "max_tokens", "top_p", "min_p", "stops"):
        if isinstance(given := body.get(name), list):
            for row, value in zip(rows, _each(given, name, count), strict=True):
                row[name.removesuffix("s") if name == "stops" else name] = value
    return [
        replace(sampling_settings(row, default_max_tokens=None), seed=seed)
        for row, seed in zip(rows, seeds(body, first.seed, count), strict=True)
    ]


def answer_limit(tokens: Sequence[int], requested: int | None, *, context: int, vocab_size: int) -> int:
    """Return the most tokens that the answer to a prompt may have.

    Args:
        tokens: The prompt.
        requested: The limit that the request sets; None if it sets none.
        context: The most tokens of prompt and answer together.
        vocab_size: The number of tokens in the vocabulary.

    Raises:
        UsageError: The prompt is empty, has unknown tokens, or leaves too little space for the answer.
    """
    if not tokens:
        raise UsageError("the prompt is empty; send at least one token")
    if not all(0 <= token < vocab_size for token in tokens):
        raise UsageError(f"a prompt's tokens must be from 0 to {vocab_size - 1}")
    left = context - len(tokens)
    limit = min(DEFAULT_MAX_TOKENS, left) if requested is None else requested
    if left < max(limit, 1):
        raise UsageError(
            f"the prompt has {len(tokens)} tokens and the answer may have {max(limit, 1)}, but this "
            f"model takes {context} together; shorten the prompt or lower max_tokens"
        )
    return limit


def choices(body: Json) -> int:
    """Return the number of answers that the request wants for each prompt (its `n`)."""
    return 1 if body.get("n") is None else _whole(body["n"], "n", 1, MAX_N)


def seeds(body: Json, first: int, count: int) -> list[int]:
    """Return a seed for each of `count` rows: the request's `seeds`, or `first` and the numbers after it."""
    given = body.get("seeds")
    if given is None:
        return [(first + row) % SEED_SPACE for row in range(count)]
    if not isinstance(given, list) or len(given) != count:
        raise UsageError(f"seeds must be a list of {count} whole numbers, one for each prompt")
    return [_seed(seed, "seeds") for seed in given]


def flag(body: Json, name: str, default: bool = False) -> bool:
    """Return the Boolean field `name`; `default` if the request lacks it."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be true or false")
    return value


def conversations(body: Json, *, may_be_empty: bool = False) -> list[list[Message]]:
    """Return the request's `conversations`, each a checked list of messages."""
    value = body.get("conversations")
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ROWS:
        raise UsageError(f"conversations must be a list of 1 to {MAX_ROWS} lists of messages")
    return [messages(conversation, may_be_empty=may_be_empty) for conversation in value]


def tools_each(body: Json, count: int) -> list[list[Json]]:
    """Return the tools of each of the `count` conversations of a request, which lists them in `tools`."""
    value = body.get("tools")
    if value is None:
        return [[] for _ in range(count)]
    if not isinstance(value, list) or len(value) != count:
        raise UsageError(f"tools must be a list of {count} lists of definitions, one for each conversation")
    return [tools(each) for each in value]


def role(value: object) -> str:
    """Return who speaks next, `assistant` or `user`, once the value is checked to be one of them."""
    if value not in ("assistant", "user"):
        raise UsageError("role, who speaks next, must be assistant or user")
    return str(value)


def batch_rows(body: Json) -> list[BatchRow]:
    """Return the rows of a batch request.

    `role` names who speaks next, for all rows or in a list for each row; `assistant` is the default. `raw` is
    a list with the text that a row continues, or null for a row whose conversation is used. A conversation
    may be empty if the user speaks next, or if it is not used.
    """
    many = conversations(body, may_be_empty=True)
    given = body.get("role", "assistant")
    roles = _each(given, "role", len(many)) if isinstance(given, list) else [given] * len(many)
    raw = body.get("raw")
    texts = [None] * len(many) if raw is None else _each(raw, "raw", len(many))
    rows = [
        BatchRow(
            messages=one, role=role(speaker), text=None if own is None else text(own, "raw"), tools=offered
        )
        for one, speaker, own, offered in zip(many, roles, texts, tools_each(body, len(many)), strict=True)
    ]
    if any(not (row.messages or row.text) and row.role == "assistant" for row in rows):
        raise UsageError("messages must be a list of at least one {role, content}")
    return rows


def template_settings(body: Json) -> Json:
    """Return the request's variables of the chat template, such as `enable_thinking`; {} for none."""
    value = body.get("chat_template_kwargs")
    if value is None:
        return {}
    if not isinstance(value, dict) or TEMPLATE_ARGUMENTS & value.keys():
        raise UsageError(
            "chat_template_kwargs must be an object with variables of the model's chat template, such as "
            "enable_thinking"
        )
    return value


def prompts(body: Json) -> list[str | list[int]]:
    """Return the prompts of a completion request: one or several, as text or as tokens."""
    value = body.get("prompt")
    if isinstance(value, str) or (isinstance(value, list) and value and _all_whole(value)):
        value = [value]
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ROWS:
        raise UsageError(f"prompt must be text, tokens, or a list of 1 to {MAX_ROWS} of one of these")
    if all(isinstance(prompt, str) for prompt in value):
        return [text(prompt, "prompt") for prompt in value]
    if all(isinstance(prompt, list) and prompt and _all_whole(prompt) for prompt in value):
        return [list(prompt) for prompt in value]
    raise UsageError("prompt must be text, tokens (whole numbers), or a list of either, not a mixture")


def texts(body: Json, name: str) -> list[str]:
    """Return the list of texts in the field `name`."""
    value = body.get(name)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ROWS:
        raise UsageError(f"{name} must be a list of 1 to {MAX_ROWS} texts")
    return [text(each, name) for each in value]


def _number(body: Json, name: str, default: float, least: float, most: float) -> float:
    """Return the number in the field `name`, from `least` to `most`; `default` if the request lacks it."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        # NaN is refused too: a comparison with it is false.
        raise UsageError(f"{name} must be a number from {least:g} to {most:g}")
    return float(value)


def _each(value: object, name: str, count: int) -> list[Any]:
    """Return the value if it is a list with one entry for each of `count` rows; `name` is its field."""
    if not isinstance(value, list) or len(value) != count:
        raise UsageError(f"{name}, given as a list, must have {count} values, one for each conversation")
    return value


def _top_p(body: Json) -> float:
    """Return `top_p`, the share of the probability that tokens are sampled from: over 0, at most 1."""
    value = _number(body, "top_p", 1.0, 0.0, 1.0)
    if not value > 0 or not math.isfinite(value):
        raise UsageError("top_p must be more than 0 and at most 1")
    return value


def _whole(value: Any, name: str, least: int, most: int) -> int:
    """Return the value if it is a whole number from `least` to `most`; `name` is its field."""
    if type(value) is not int or not least <= value <= most:
        raise UsageError(f"{name} must be a whole number from {least} to {most}")
    return int(value)


def _seed(value: object, name: str) -> int:
    """Return a seed from 0 to 2**64 - 1; the value may be any 64-bit number, signed or not."""
    return _whole(value, name, -SEED_SPACE // 2, SEED_SPACE - 1) % SEED_SPACE


def _stop(value: object) -> tuple[str, ...]:
    """Return the stop strings in a request's `stop`: a text, a list of texts, or None for none."""
    given = [value] if isinstance(value, str) else value
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > MAX_STOPS or not all(given):
        raise UsageError(f"stop must be a text or a list of at most {MAX_STOPS} texts, none empty")
    return tuple(text(part, "stop") for part in given)


def _all_whole(value: Sequence[object]) -> bool:
    """Return whether these are all whole numbers."""
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value)
