"""The running batch: rows that come and go, users first, and answers that do not depend on their company."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from agents.model.embedded import kv_cache
from agents.model.embedded.chat import ChatTokenizer
from agents.model.embedded.decoder import DecoderForward
from agents.model.embedded.forward import TransformersForward
from agents.model.embedded.kernel import library
from agents.model.embedded.running import Cancelled, GenerationRequest, Row, RunningBatch

LONG_PROMPT = [5 + place % 300 for place in range(300)]
"""Longer than one piece of a prompt."""


def ask(tokens: Sequence[int] = (5, 6, 7), seed: int = 0, **more: Any) -> GenerationRequest:
    return GenerationRequest(**{"tokens": tokens, "seed": seed, "temperature": 1.0, "max_tokens": 12} | more)


def batch_of(forward: Any, tokenizer: Any) -> RunningBatch:
    """Return a batch whose rows all get as many tokens as they may have."""
    return RunningBatch(forward, ChatTokenizer(tokenizer).decode, [])


def finish(batch: RunningBatch) -> None:
    while batch.busy:
        batch.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_answer_is_the_same_alone_and_among_rows_that_come_and_go(
    model_dir: Any, tokenizer: Any, dtype: torch.dtype
) -> None:
    if library() is None:
        pytest.skip("the library is not built here")
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).eval()
    asks = [ask([5 + seed] * (1 + 7 * seed), seed, top_p=0.9 if seed % 2 else 1.0) for seed in range(8)]
    asks.append(ask(LONG_PROMPT, 9))
    alone = []
    for one in asks:
        batch, row = batch_of(DecoderForward(model), tokenizer), Row(request=one)
        batch.add(row)
        finish(batch)
        alone.append(row.tokens)
    batch, rows = batch_of(DecoderForward(model), tokenizer), [Row(request=one) for one in asks]
    for number, row in enumerate(rows):
        batch.add(row)
        batch.add(Row(request=ask([9] * 20, 100 + number, max_tokens=3), user=bool(number % 2)))
        batch.step()
    finish(batch)
    assert [row.tokens for row in rows] == alone


def test_a_users_row_does_not_wait_for_the_rows_of_a_batch(model: Any, tokenizer: Any) -> None:
    batch = batch_of(DecoderForward(model), tokenizer)
    many = [Row(request=ask([7] * 30, seed, max_tokens=40)) for seed in range(400)]
    for row in many:
        batch.add(row)
    for _ in range(3):
        batch.step()
    user = Row(request=ask(LONG_PROMPT, 1, max_tokens=6), user=True)
    batch.add(user)
    for _ in range(7):  # two pieces of the prompt, the second of which gives the first token
        assert not user.ended
        batch.step()
    assert user.finish_reason
    assert not any(row.ended for row in many)
    finish(batch)
    assert all(row.finish_reason and row.error is None for row in many)


def test_rows_wait_for_space_in_the_cache_and_all_get_their_answers(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_cache, "SHARE_OF_MEMORY", 0.0)  # pages for a single row of any length
    batch = batch_of(DecoderForward(model), tokenizer)
    rows = [Row(request=ask([7] * 200, seed)) for seed in range(5)]
    for row in rows:
        batch.add(row)
    finish(batch)
    assert all(row.finish_reason for row in rows)


def test_dropped_rows_give_back_their_space_and_end_with_the_error(model: Any, tokenizer: Any) -> None:
    batch, heard = batch_of(DecoderForward(model), tokenizer), list[Row]()
    rows = [Row(request=ask(seed=seed), changed=heard.append) for seed in range(4)]
    for row in rows:
        batch.add(row)
    batch.step()
    batch.drop(Cancelled(), which=lambda row: row is rows[1])
    assert isinstance(rows[1].error, Cancelled) and heard[-1] is rows[1]
    finish(batch)
    assert [bool(row.finish_reason) for row in rows] == [True, False, True, True]


def test_a_page_of_the_cache_belongs_to_one_row_at_a_time() -> None:
    cache = kv_cache.PagedCache(
        layers=1, kv_heads=1, dim=16, context=64, dtype=torch.float32, free_bytes=lambda: 4 * 12 * 2048
    )
    first, second = cache.take(40), cache.take(64)
    assert first is not None and second is not None
    held = [set(cache.pages[row, :pages].tolist()) for row, pages in ((first, 3), (second, 4))]
    assert not held[0] & held[1]
    assert cache.take(64, spare=True) is None
    third = cache.take(64)
    assert third is not None and cache.take(64) is None
    cache.give_back(first)
    cache.give_back(second)
    assert cache.take(64) is not None


def test_other_models_run_in_the_same_batch(model: Any, tokenizer: Any) -> None:
    answers = []
    for forward in (DecoderForward(model), TransformersForward(model)):
        batch = batch_of(forward, tokenizer)
        rows = [Row(request=ask([7 + seed] * 9, seed)) for seed in range(3)]
        for row in rows:
            batch.add(row)
        finish(batch)
        answers.append([row.tokens for row in rows])
    assert answers[0] == answers[1]
