"""Generation: tokens drawn from the logits, and when an answer ends."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from agents.model.embedded.chat import ChatTokenizer
from agents.model.embedded.forward import Forward, forward_for
from agents.model.embedded.running import Cancelled, GenerationRequest
from agents.model.embedded.sampling import Generation, Sampler

PROMPTS = [[5, 6, 7], list(range(10, 60)), [9], list(range(30, 42)), list(range(40, 90))]


@pytest.fixture(scope="module")
def forward(model: Any) -> Forward:
    return forward_for(model)


@pytest.fixture(scope="module")
def sampler(forward: Forward, tokenizer: Any) -> Sampler:
    return Sampler(forward, ChatTokenizer(tokenizer).decode, [2])


def ask(tokens: Sequence[int] = (5, 6, 7), seed: int = 0, **more: Any) -> GenerationRequest:
    return GenerationRequest(**{"tokens": tokens, "seed": seed, "temperature": 1.0, "max_tokens": 12} | more)


def test_the_same_batch_gives_the_same_answers(sampler: Sampler) -> None:
    asks = [ask(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    assert sampler.generate(asks) == sampler.generate(asks)


def test_two_rows_with_the_same_prompt_and_seed_agree_and_other_seeds_differ(sampler: Sampler) -> None:
    first, other, second = sampler.generate([ask(seed=1), ask(seed=2), ask(seed=1)])
    assert first == second
    assert first != other


def test_rows_that_end_early_do_not_change_the_others(sampler: Sampler) -> None:
    long = [ask(prompt, seed, max_tokens=30) for seed, prompt in enumerate(PROMPTS)]
    short = [ask(prompt, 9, max_tokens=2) for prompt in PROMPTS]
    assert sampler.generate([*long, *short])[: len(long)] == sampler.generate(long)


def test_greedy_decoding_takes_the_likeliest_token_whatever_the_seed(sampler: Sampler, model: Any) -> None:
    answer, other = sampler.generate([ask(seed=1, temperature=0.0), ask(seed=2, temperature=0.0)])
    assert answer == other
    tokens = [5, 6, 7]
    for token in answer.token_ids:
        with torch.inference_mode():
            assert int(model(torch.tensor([tokens])).logits[0, -1].argmax()) == token
        tokens.append(token)


def test_greedy_and_sampled_rows_share_a_batch(sampler: Sampler) -> None:
    greedy, sampled = sampler.generate([ask(temperature=0.0), ask(seed=3)])
    assert greedy.token_ids == sampler.generate([ask(temperature=0.0)])[0].token_ids
    assert sampled != greedy


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(
    sampler: Sampler, model: Any, temperature: float
) -> None:
    count = 4000
    asks = [ask(seed=seed, temperature=temperature, max_tokens=1) for seed in range(count)]
    drawn = torch.tensor([answer.token_ids[0] for answer in sampler.generate(asks)])
    with torch.inference_mode():
        expected = (model(torch.tensor([[5, 6, 7]])).logits[0, -1].double() / temperature).softmax(-1)
    frequencies = torch.bincount(drawn, minlength=len(expected)) / count
    error = (expected * (1 - expected) / count).sqrt()
    # Seeds are fixed, so this cannot fail by chance; 5 standard errors over 320 tokens is what chance allows.
    assert ((frequencies - expected).abs() <= 5 * error + 1e-3).all()


def test_top_p_keeps_only_the_likeliest_tokens(sampler: Sampler, model: Any) -> None:
    with torch.inference_mode():
        chances, order = model(torch.tensor([[5, 6, 7]])).logits[0, -1].softmax(-1).sort(descending=True)
    allowed = set(order[: int((chances.cumsum(-1) < 0.5).sum()) + 1].tolist())
    asks = [ask(seed=seed, top_p=0.5, max_tokens=1) for seed in range(500)]
    assert {answer.token_ids[0] for answer in sampler.generate(asks)} == allowed
    narrow = [ask(seed=seed, top_p=1e-9, max_tokens=1) for seed in range(50)]
    assert {answer.token_ids[0] for answer in sampler.generate(narrow)} == {int(order[0])}


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 10.0])
def test_extreme_temperatures_still_draw_tokens(sampler: Sampler, temperature: float) -> None:
    (answer,) = sampler.generate([ask(temperature=temperature)])
    assert all(0 <= token < 320 for token in answer.token_ids)
    if temperature < 1:
        assert answer.token_ids == sampler.generate([ask(temperature=0.0)])[0].token_ids


def test_an_answer_ends_at_an_end_token_which_is_not_in_its_text(forward: Forward, tokenizer: Any) -> None:
    text = ChatTokenizer(tokenizer)
    (free,) = Sampler(forward, text.decode, []).generate([ask()])
    end = free.token_ids[3]
    place = free.token_ids.index(end)
    (ended,) = Sampler(forward, text.decode, [end]).generate([ask()])
    assert (ended.token_ids, ended.finish_reason) == (free.token_ids[: place + 1], "stop")
    assert (free.finish_reason, len(free.token_ids)) == ("length", 12)


def test_an_answer_ends_before_its_stop_string(sampler: Sampler) -> None:
    (free,) = sampler.generate([ask(max_tokens=30)])
    stop = free.text[4:6]
    (stopped,) = sampler.generate([ask(max_tokens=30, stop=("never in it \0", stop))])
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert len(stopped.token_ids) < len(free.token_ids)


@pytest.mark.parametrize("stop", [(), ("e", "zz"), ("never in it",)])
def test_a_stream_has_the_pieces_of_the_same_answer(sampler: Sampler, stop: tuple[str, ...]) -> None:
    for seed in range(6):
        one = ask(seed=seed, max_tokens=40, stop=stop)
        *pieces, answer = sampler.stream(one)
        assert answer == sampler.generate([one])[0]
        assert isinstance(answer, Generation)
        assert "".join(map(str, pieces)) == answer.text
        assert all(pieces)


def test_seeds_of_more_than_one_word_are_distinguished(sampler: Sampler) -> None:
    answers = sampler.generate([ask(seed=seed) for seed in (0, 1, 2**32, 2**63, 2**64 - 1)])
    assert all(one != other for one, other in pairwise(answers))


def test_generation_stops_when_the_request_is_cancelled(sampler: Sampler) -> None:
    calls = iter(range(100))
    with pytest.raises(Cancelled):
        sampler.generate([ask(max_tokens=50)], lambda: next(calls) >= 3)
    assert next(calls) == 4
