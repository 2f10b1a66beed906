"""Conversations to tokens and back, for one tokenizer and its chat template.

Invariant: what people wrote is data. No text in a message can become a control token: content that would is
encoded piece by piece with control tokens switched off, and only the template's own markup makes them.
Ordinary content takes the usual path, so its tokens are exactly those of `apply_chat_template`. Knows neither
model nor HTTP.
"""

import re
from collections.abc import Sequence
from typing import Any

import jinja2
from tokenizers import Tokenizer

from agents.model import requests
from agents.model.requests import Body
from corpus.aliases import Message
from corpus.errors import UsageError

_MARK = "\ue000{}\ue001"
"""Stands in the rendered template for content that must be encoded apart (private-use characters)."""
_MARKED = re.compile("\ue000([0-9]+)\ue001")


class ChatTokenizer:
    """Encodes and decodes; safe to use from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is a fast Hugging Face tokenizer with a chat template."""
        self._hugging_face = tokenizer
        self._markup: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.encode_special_tokens = True
        for one in (self._markup, self._plain):
            one.no_truncation()
            one.no_padding()
        added = self._markup.get_added_tokens_decoder()
        self._control = frozenset(number for number, token in added.items() if token.special)

    def encode(self, text: str) -> list[int]:
        """Tokens of text that is data: never a control token."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_markup(self, text: str) -> list[int]:
        """Tokens of text that we wrote ourselves, control tokens included."""
        ids: list[int] = self._markup.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of these tokens, control tokens left out."""
        text: str = self._markup.decode(ids, skip_special_tokens=True)
        return text

    def conversation(
        self, messages: Sequence[Message], *, opens: bool = True, role: str = "assistant"
    ) -> list[int]:
        """Tokens of a conversation; with `opens`, the start of the next turn, by `role`, is appended."""
        contents: list[str] = []
        shown = [{**message, "content": self._guarded(message["content"], contents)} for message in messages]
        text = self._rendered(shown, opens, role)
        if not contents:
            return self.encode_markup(text)
        ids: list[int] = []
        for place, part in enumerate(_MARKED.split(text)):
            # The pattern has one group, so every second part is the number of a content.
            ids += self.encode(contents[int(part)]) if place % 2 else self.encode_markup(part)
        return ids

    def many(self, body: Body) -> list[list[int]]:
        """What a request for the tokens of many rows asks: `conversations` by the template, or `texts` as data."""
        if "texts" in body:
            return [self.encode(one) for one in requests.texts(body, "texts")]
        opens = requests.flag(body, "add_generation_prompt", True)
        return [self.conversation(one, opens=opens) for one in requests.conversations(body)]

    def _guarded(self, content: str, contents: list[str]) -> str:
        """The content, or a mark in its place when the template may not show it as it is."""
        if self._control.isdisjoint(self.encode_markup(content)) and not _MARKED.search(content):
            return content
        contents.append(content)
        return _MARK.format(len(contents) - 1)

    def _rendered(self, messages: Sequence[Message], opens: bool, role: str) -> str:
        """The template's text."""
        if messages and role == "assistant":
            return self._template(messages, opens)
        closed = self._template(messages, False) if messages else ""
        return closed + self._opening(role) if opens else closed

    def _opening(self, role: str) -> str:
        """What opens a turn of this role, by the template's opening for the assistant."""
        probe = [{"role": "user", "content": "x"}]
        closed, opened = self._template(probe, False), self._template(probe, True)
        opening = opened[len(closed) :]
        if not opened.startswith(closed) or opening.count("assistant") != 1:
            raise UsageError(f"this model's chat template cannot open a turn for {role}; use role assistant")
        return opening.replace("assistant", role)

    def _template(self, messages: Sequence[Message], opens: bool) -> str:
        """The Hugging Face template, its complaints turned into ours."""
        try:
            text: str = self._hugging_face.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=opens
            )
        except (jinja2.TemplateError, LookupError, TypeError, ValueError) as error:
            raise UsageError(f"this model's chat template refuses the messages: {error}") from error
        return text
