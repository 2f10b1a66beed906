"""The chat tokenizer: conversations to tokens and back, by one model's tokenizer and chat template.

Invariant: text in a message, a tool call or a tool's definition is data and never becomes a control token;
only the template's own markup does. Text that contains the text of a control token is encoded apart, with
control tokens switched off. Any other conversation gets exactly the tokens of `apply_chat_template`, with two
exceptions: if the template refuses or drops a system prompt, the prompt's text is put before the first user's
message; if it refuses or drops tool calls, they are put into the message's content as text. This module knows
nothing about models or HTTP.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jinja2
from tokenizers import Tokenizer

from agents.model import requests
from corpus.aliases import Json, Message
from corpus.errors import UsageError
from corpus.formats.parts import tool_call

_PLACEHOLDER = "\ue000{}\ue001"
"""Stands in the rendered template for content that is encoded apart; it has private-use characters."""
_PLACEHOLDERS = re.compile("\ue000([0-9]+)\ue001")
BATCH_SETTINGS = {"enable_thinking": False}
"""Template variables of the batch routes: a night's answers are short, and thinking would fill them."""
_PROBE, _ANSWER = "nightschool-asks", "nightschool-answers"
"""Contents of the messages that show what the template makes of a conversation; no template contains them."""
_TOOL: Json = {
    "type": "function",
    "function": {"name": _ANSWER, "description": "", "parameters": {"type": "object", "properties": {}}},
}
"""The tool that shows whether the template renders tools."""


class ChatTokenizer:
    """The encoder and decoder of one model's conversations; several threads may use it at once."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a fast Hugging Face tokenizer that has a chat template."""
        self._hugging_face = tokenizer
        self._markup: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.encode_special_tokens = True
        self.longest = max(map(len, tokenizer.get_vocab()))
        """Characters of the longest token, so that a text of n characters has n / longest tokens at least."""
        for backend in (self._markup, self._plain):
            backend.no_truncation()
            backend.no_padding()
        added = self._markup.get_added_tokens_decoder()
        self._control = frozenset(number for number, token in added.items() if token.special)

    @cached_property
    def turn_end(self) -> int | None:
        """The control token with which the template ends an answer; None if it ends an answer with text."""
        probe = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _ANSWER}]
        try:
            tail = self._template(probe, False).rpartition(_ANSWER)[2]
        except UsageError:
            return None
        first = self.encode_markup(tail)[:1]
        return first[0] if first and first[0] in self._control else None

    @cached_property
    def request_end(self) -> int | None:
        """The control token with which the template ends a request; None if text follows the request."""
        probe = [{"role": "user", "content": _PROBE}]
        try:
            tail = self._template(probe, True).rpartition(_PROBE)[2]
        except UsageError:
            return None
        first = self.encode_markup(tail.lstrip(" "))[:1]
        return first[0] if first and first[0] in self._control else None

    @cached_property
    def _text_start(self) -> list[int]:
        """The tokens that the tokenizer puts before a text, such as that for its beginning."""
        with_start: list[int] = self._markup.encode(_PROBE, add_special_tokens=True).ids
        bare = self.encode_markup(_PROBE)
        return with_start[: max(0, len(with_start) - len(bare))] if with_start[-len(bare) :] == bare else []

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template renders a system prompt; False if it refuses or drops one."""
        probe = [{"role": "system", "content": _PROBE}, {"role": "user", "content": _ANSWER}]
        try:
            return _PROBE in self._template(probe, True)
        except UsageError:
            return False

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template renders the definitions of tools."""
        try:
            return _ANSWER in self._template([{"role": "user", "content": _PROBE}], True, {}, [_TOOL])
        except UsageError:
            return False

    @cached_property
    def takes_calls(self) -> bool:
        """Whether the template renders the tool calls of an answer."""
        call = {"id": "callnight", "type": "function", "function": {"name": _ANSWER, "arguments": {}}}
        probe: list[Message] = [
            {"role": "user", "content": _PROBE},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": _PROBE, "tool_call_id": "callnight"},
        ]
        try:
            return _ANSWER in self._template(probe, True)
        except UsageError:
            return False

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text that is data: none of them is a control token."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_markup(self, text: str) -> list[int]:
        """Return the tokens of trusted text, in which control tokens count as such."""
        ids: list[int] = self._markup.encode(text, add_special_tokens=False).ids
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Return the tokens of a text to continue: data, after the token that begins a text, if any."""
        return [*self._text_start, *self.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these tokens, without control tokens."""
        text: str = self._markup.decode(ids, skip_special_tokens=True)
        return text

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        role: str = "assistant",
        settings: Mapping[str, Any] | None = None,
        tools: Sequence[Json] = (),
    ) -> list[int]:
        """Return the tokens of a conversation.

        The servers' routes, the pairs and the trainer's examples all get their tokens here.

        Args:
            messages: The conversation.
            add_generation_prompt: Whether the tokens end with the opening of the next turn.
            role: Who speaks next: `assistant` or `user`.
            settings: The template's own variables, such as `enable_thinking`.
            tools: Definitions of the tools; a template that renders none ignores them.
        """
        contents: list[str] = []
        shaped = [
            _with_arguments(message) if self.takes_calls else _in_words(message) for message in messages
        ]
        escaped = [self._escaped_message(message, contents) for message in shaped]
        offered = [self._escaped_json(tool, contents) for tool in tools]
        if escaped and escaped[0]["role"] == "system" and not self.takes_system:
            escaped = _folded(escaped)
        text = self._rendered(escaped, add_generation_prompt, role, settings or {}, offered)
        if not contents:
            return self.encode_markup(text)
        ids: list[int] = []
        for place, part in enumerate(_PLACEHOLDERS.split(text)):
            # The pattern has one group, so every second part is the number of a content.
            ids += self.encode(contents[int(part)]) if place % 2 else self.encode_markup(part)
        return ids

    def encode_many(self, body: Json) -> list[list[int]]:
        """Return the tokens of each row of a request for tokens.

        The request has either `conversations`, which the template renders, or `texts`, which are data.
        """
        if "texts" in body:
            return [self.encode(text) for text in requests.texts(body, "texts")]
        opens = requests.flag(body, "add_generation_prompt", True)
        settings = BATCH_SETTINGS | requests.template_settings(body)
        return [
            self.encode_chat(
                row.messages, add_generation_prompt=opens, role=row.role, settings=settings, tools=row.tools
            )
            for row in requests.batch_rows(body)
        ]

    def encode_rows(self, body: Json) -> list[list[int]]:
        """Return the prompt of each row of a batch request: see `requests.batch_rows`."""
        settings = BATCH_SETTINGS | requests.template_settings(body)
        return [
            self.encode_chat(row.messages, role=row.role, settings=settings, tools=row.tools)
            if row.text is None
            else self.encode_text(row.text)
            for row in requests.batch_rows(body)
        ]

    def more_ends(self, body: Json) -> list[tuple[int, ...]]:
        """Return the tokens that end each row of a batch request, beside those that end every answer.

        A row that writes a request ends with the token that ends a request, as well.
        """
        end = self.request_end
        return [
            (end,) if row.role == "user" and row.text is None and end is not None else ()
            for row in requests.batch_rows(body)
        ]

    def _escaped_message(self, message: Message, contents: list[str]) -> Message:
        """Return a message with a placeholder for each text that would give control tokens."""
        escaped = dict(message)
        for key in ("content", "tool_call_id", "name"):
            if key in message:
                escaped[key] = self._escaped(message[key], contents)
        if "tool_calls" in message:
            escaped["tool_calls"] = self._escaped_json(message["tool_calls"], contents)
        return escaped

    def _escaped_json(self, value: Any, contents: list[str]) -> Any:
        """Return a JSON value with a placeholder for each text in it that would give control tokens.

        Templates write such values as JSON. So the placeholder stands for the text as it is inside JSON.
        """
        if isinstance(value, str):
            return self._escaped(value, contents, json.dumps(value, ensure_ascii=False)[1:-1])
        if isinstance(value, dict):
            return {
                self._escaped_json(key, contents): self._escaped_json(part, contents)
                for key, part in value.items()
            }
        return [self._escaped_json(part, contents) for part in value] if isinstance(value, list) else value

    def _escaped(self, content: str, contents: list[str], written: str | None = None) -> str:
        """Return the content, or a placeholder if the content would give control tokens.

        In that case the content, or `written` in its place, is appended to `contents`, and the placeholder
        holds its number there.
        """
        if self._control.isdisjoint(self.encode_markup(content)) and not _PLACEHOLDERS.search(content):
            return content
        contents.append(content if written is None else written)
        return _PLACEHOLDER.format(len(contents) - 1)

    def _rendered(
        self,
        messages: Sequence[Message],
        opens: bool,
        role: str,
        settings: Mapping[str, Any],
        tools: Sequence[Json],
    ) -> str:
        """Return the conversation as text; with `opens`, it ends with the opening of a turn of this role."""
        if opens and role == "user":
            return self._before_request(messages, settings, tools)
        if messages:
            return self._template(messages, opens, settings, tools)
        return self._opening() if opens else ""

    def _before_request(
        self, messages: Sequence[Message], settings: Mapping[str, Any], tools: Sequence[Json]
    ) -> str:
        """Return the conversation as text, up to where the content of the user's next message begins.

        A space at the end is left out: tokenizers join it to the word that follows.
        """
        closed = self._template(messages, False, settings, tools) if messages else ""
        whole = self._template([*messages, {"role": "user", "content": _PROBE}], False, settings, tools)
        before = whole.rpartition(_PROBE)[0]
        if not before.removeprefix(closed).strip():
            raise UsageError("this model's chat template cannot open a turn for user; use role assistant")
        return before.rstrip(" ")

    def _opening(self) -> str:
        """Return the text with which the template opens an answer, cut out of a rendered conversation."""
        turns = [{"role": "user", "content": _PROBE}]
        closed, opened = self._template(turns, False), self._template(turns, True)
        if not opened.startswith(closed) or opened == closed:
            raise UsageError("this model's chat template cannot open an answer after no messages; send one")
        return opened[len(closed) :]

    def _template(
        self,
        messages: Sequence[Message],
        opens: bool,
        settings: Mapping[str, Any] | None = None,
        tools: Sequence[Json] = (),
    ) -> str:
        """Return the text that the Hugging Face template renders; its errors become `UsageError`."""
        try:
            text: str = self._hugging_face.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=opens,
                **(settings or {}),
            )
        except (jinja2.TemplateError, LookupError, TypeError, ValueError) as error:
            raise UsageError(f"this model's chat template refuses the messages: {error}") from error
        return text


def _folded(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the system prompt's text put before the first user's text, as Gemma 3 does."""
    system, *turns = messages
    if not turns or turns[0]["role"] != "user":
        raise UsageError(
            "this model's chat template takes no system prompt; let a user's message follow it, "
            "so that it can open that message"
        )
    return [{**turns[0], "content": f"{system['content']}\n\n{turns[0]['content']}"}, *turns[1:]]


def _with_arguments(message: Message) -> Message:
    """Return the message with the arguments of its tool calls as JSON values: templates get these from vLLM.

    Arguments that are not JSON stay text.
    """
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": _parsed(call["function"].get("arguments"))}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _parsed(arguments: Any) -> Any:
    """Return the arguments of a tool call as a JSON value; text that is not JSON is returned as it is."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments


def _in_words(message: Message) -> Message:
    """Return the message with its tool calls as text in its content."""
    if not message.get("tool_calls"):
        return message
    called = (call["function"] for call in message["tool_calls"])
    lines = [tool_call(function["name"], function.get("arguments") or "{}") for function in called]
    content = "\n".join(filter(None, [message["content"], *lines]))
    return {"role": message["role"], "content": content}
