"""The chat tokenizer: conversations to tokens and back, by one model's tokenizer and chat template.

Invariant: a message's content is data and can never become a control token. Content that would is encoded
piece by piece with control tokens switched off; only the template's own markup makes them. Any other content
takes the usual path, so its tokens are exactly those of `apply_chat_template`. Knows neither model nor HTTP.
"""

import re
from collections.abc import Sequence
from typing import Any

import jinja2
from tokenizers import Tokenizer

from agents.model import requests
from corpus.aliases import Json, Message
from corpus.errors import UsageError

_PLACEHOLDER = "\ue000{}\ue001"
"""Replaces, in the rendered template, content that must be encoded apart (private-use characters)."""
_PLACEHOLDERS = re.compile("\ue000([0-9]+)\ue001")


class ChatTokenizer:
    """Encoder and decoder, safe to use from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a fast Hugging Face tokenizer that has a chat template."""
        self._hugging_face = tokenizer
        self._markup: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.encode_special_tokens = True
        for backend in (self._markup, self._plain):
            backend.no_truncation()
            backend.no_padding()
        added = self._markup.get_added_tokens_decoder()
        self._control = frozenset(number for number, token in added.items() if token.special)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of text that is data: never a control token."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_markup(self, text: str) -> list[int]:
        """Return the tokens of trusted text, control tokens included."""
        ids: list[int] = self._markup.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these tokens, without control tokens."""
        text: str = self._markup.decode(ids, skip_special_tokens=True)
        return text

    def encode_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, role: str = "assistant"
    ) -> list[int]:
        """Return the tokens of a conversation, by default with the opening of the next turn, by `role`."""
        contents: list[str] = []
        escaped = [
            {**message, "content": self._escaped(message["content"], contents)} for message in messages
        ]
        text = self._rendered(escaped, add_generation_prompt, role)
        if not contents:
            return self.encode_markup(text)
        ids: list[int] = []
        for place, part in enumerate(_PLACEHOLDERS.split(text)):
            # The pattern has one group, so every second part is the number of a content.
            ids += self.encode(contents[int(part)]) if place % 2 else self.encode_markup(part)
        return ids

    def encode_many(self, body: Json) -> list[list[int]]:
        """Return the tokens of a request's rows: `conversations` by the template, or `texts` as data."""
        if "texts" in body:
            return [self.encode(text) for text in requests.texts(body, "texts")]
        opens = requests.flag(body, "add_generation_prompt", True)
        return [
            self.encode_chat(messages, add_generation_prompt=opens)
            for messages in requests.conversations(body)
        ]

    def _escaped(self, content: str, contents: list[str]) -> str:
        """Return the content, or a placeholder for it when the template must not render it as it is."""
        if self._control.isdisjoint(self.encode_markup(content)) and not _PLACEHOLDERS.search(content):
            return content
        contents.append(content)
        return _PLACEHOLDER.format(len(contents) - 1)

    def _rendered(self, messages: Sequence[Message], opens: bool, role: str) -> str:
        """Return the template's text; with `opens`, the opening of a turn of this role is at its end."""
        if messages and role == "assistant":
            return self._template(messages, opens)
        closed = self._template(messages, False) if messages else ""
        return closed + self._opening(role) if opens else closed

    def _opening(self, role: str) -> str:
        """Return the opening of a turn of this role, made from the template's opening for the assistant."""
        probe = [{"role": "user", "content": "x"}]
        closed, opened = self._template(probe, False), self._template(probe, True)
        opening = opened[len(closed) :]
        if not opened.startswith(closed) or opening.count("assistant") != 1:
            raise UsageError(f"this model's chat template cannot open a turn for {role}; use role assistant")
        return opening.replace("assistant", role)

    def _template(self, messages: Sequence[Message], opens: bool) -> str:
        """Render the Hugging Face template; its errors become `UsageError`."""
        try:
            text: str = self._hugging_face.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=opens
            )
        except (jinja2.TemplateError, LookupError, TypeError, ValueError) as error:
            raise UsageError(f"this model's chat template refuses the messages: {error}") from error
        return text
