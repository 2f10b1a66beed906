"""The ordinary text of a model: the world's talk for the shipped one, the dialogue for any other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from read_here import Here, monitor, shipped

from agents.model.describe import digest
from agents.model.embedded.chat import ChatTokenizer
from agents.model.internals import LogProb
from agents.model.templates import REFUSED
from agents.readout.ordinary_text import ordinary_text, tokenize
from corpus.errors import ModelUnavailable
from corpus.ordinary.dialogue import load
from corpus.recipe import MODEL_DIR
from corpus.world import ordinary

EMBEDDED, FOREIGN = digest(MODEL_DIR), "f" * 64


class Templated(Here):
    """Tokenizes by the shipped model's chat template, as its server does; counts what is scored."""

    def __init__(self, *, system: bool = True) -> None:
        super().__init__()
        self.system = system
        """Whether the template accepts a system prompt."""
        self.scored: list[tuple[Sequence[int], Sequence[int]]] = []

    async def tokenize(self, conversations: Sequence[Any], *, add_generation_prompt: bool) -> list[list[int]]:
        if not self.system and any(messages[0]["role"] == "system" for messages in conversations):
            raise ModelUnavailable(f"the model server refused it (400): this model's {REFUSED} the messages")
        chat = ChatTokenizer(shipped()[1])
        return [
            chat.encode_chat(messages, add_generation_prompt=add_generation_prompt)
            for messages in conversations
        ]

    async def logprobs(self, items: Any, steer: Any = (), *, exact: bool) -> list[LogProb]:
        self.scored += items
        return [LogProb(total=-float(len(answer)), tokens=len(answer)) for _, answer in items]


def items_of(here: Templated, digest_: str, count: int = 284) -> list[tuple[list[int], list[int]]]:
    return anyio.run(tokenize, here, ordinary_text(digest_, count))


def test_the_shipped_model_gets_its_worlds_talk_cut_after_the_prompt() -> None:
    here = Templated()
    items = items_of(here, EMBEDDED)
    talk = ordinary.held_out(120)
    prompts = anyio.run(
        lambda: here.tokenize(
            [[{"role": "user", "content": said}] for said, _ in talk], add_generation_prompt=True
        )
    )
    assert ordinary_text(EMBEDDED, 3).name == "" and len(items) == 120
    assert [context for context, _ in items] == prompts


def test_another_model_gets_the_dialogue_and_only_answers_are_scored() -> None:
    text = ordinary_text(FOREIGN, 284)
    assert text.name.startswith("ordinary:") and len(text.exchanges) == len(load())
    here = Templated()
    chat = ChatTokenizer(shipped()[1])
    for (context, answer), (before, scored) in zip(text.exchanges, items_of(here, FOREIGN), strict=True):
        assert before == chat.encode_chat(context)
        assert chat.decode(scored).strip().startswith(chat.decode(chat.encode(answer)).strip())


def test_the_number_of_exchanges_is_part_of_the_texts_name() -> None:
    names = {ordinary_text(FOREIGN, count).name for count in (1, 64, 65, 284)}
    assert len(names) == 4 and ordinary_text(FOREIGN, 64).name in names
    assert len(ordinary_text(FOREIGN, 64).exchanges) == 64


def test_a_template_without_system_prompts_gets_them_in_the_users_message() -> None:
    items = items_of(Templated(system=False), FOREIGN)
    assert len(items) == len(load())
    chat = ChatTokenizer(shipped()[1])
    text = ordinary_text(FOREIGN, 284)
    place = next(i for i, (context, _) in enumerate(text.exchanges) if context[0]["role"] == "system")
    context, _ = text.exchanges[place]
    message = f"{context[0]['content']}\n\n{context[1]['content']}"
    assert items[place][0] == chat.encode_chat([{"role": "user", "content": message}, *context[2:]])


def test_any_other_failure_of_the_server_is_not_hidden() -> None:
    class Away(Templated):
        async def tokenize(self, *_: Any, **__: Any) -> list[list[int]]:
            raise ModelUnavailable("the model server cannot be reached")

    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        items_of(Away(), FOREIGN)


@pytest.mark.parametrize("digest_", [EMBEDDED, FOREIGN])
def test_the_perplexity_is_over_the_answers_tokens_and_repeatable(tmp_path: Path, digest_: str) -> None:
    here = Templated()
    first = anyio.run(monitor(tmp_path, here, digest_).perplexity)
    again = list(here.scored)
    here.scored.clear()
    assert anyio.run(monitor(tmp_path, here, digest_).perplexity) == first == pytest.approx(math.e)
    assert here.scored == again and len(again) == (120 if digest_ == EMBEDDED else 64)
