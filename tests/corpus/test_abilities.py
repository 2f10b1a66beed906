"""The prompts of the abilities, and every check on the answers beside them."""

import inspect
from collections import Counter

import pytest

from corpus.abilities import checks
from corpus.abilities.checks import CHECKS
from corpus.abilities.prompts import AbilityPrompt, digest, judge, load

PROMPTS = load()
TOPICS = {
    "arithmetic",
    "context",
    "data",
    "facts",
    "format",
    "language",
    "length",
    "transformations",
    "words",
}
ODD = ("", " ", "\n\n", "```", "{", "[" * 100_000, "é", "1,2,3", "|", '"', "...", "\0", "½ ٣", "9" * 400)


def named(prompt: AbilityPrompt) -> str:
    return f"{prompt.topic}: {prompt.messages[-1]['content'][:40]}"


def test_there_are_150_prompts_and_12_of_every_topic() -> None:
    counts = Counter(prompt.topic for prompt in PROMPTS)
    assert len(PROMPTS) >= 150 and set(counts) == TOPICS and min(counts.values()) >= 12


def test_no_two_prompts_ask_the_same() -> None:
    asked = Counter(tuple(message["content"].lower() for message in prompt.messages) for prompt in PROMPTS)
    assert not [texts for texts, times in asked.items() if times > 1]


def test_every_prompt_ends_with_the_user_and_roles_alternate() -> None:
    for prompt in PROMPTS:
        roles = [message["role"] for message in prompt.messages if message["role"] != "system"]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)] and roles[-1] == "user"
        assert all(message["content"].strip() == message["content"] != "" for message in prompt.messages)


@pytest.mark.parametrize("prompt", PROMPTS, ids=named)
def test_the_check_passes_one_example_and_fails_the_other(prompt: AbilityPrompt) -> None:
    inspect.signature(CHECKS[prompt.check]).bind("", **prompt.parameters)
    good, bad = judge(prompt, prompt.passes), judge(prompt, prompt.fails)
    assert good.passed, good.reason
    assert not bad.passed and bad.reason


def test_every_check_is_used() -> None:
    assert {prompt.check for prompt in PROMPTS} == set(CHECKS)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_any_answer_gets_a_judgement_with_a_reason(text: str) -> None:
    assert all(judge(prompt, text).reason for prompt in PROMPTS)


def test_an_empty_answer_never_passes() -> None:
    assert not [prompt for prompt in PROMPTS if judge(prompt, " \n").passed]


def test_a_number_is_read_with_its_thousands_and_its_sign() -> None:
    assert not checks.number("first 3, then -1,250.5", value=-1250.5)
    assert checks.number("1, 2 and 3", value=2) and checks.number("none", value=1)


def test_sentences_are_counted_by_their_ends() -> None:
    assert not checks.sentences('He said "Stop!" Then 3.5 km more. Yes', least=3, most=3)
    assert checks.sentences("One. Two.", least=1, most=1)


def test_true_is_not_one_in_json() -> None:
    assert checks.json_array("[true]", values=[1]) and not checks.json_array("[1]", values=[1])


def test_the_digest_names_prompts_and_checks() -> None:
    assert digest(PROMPTS) == digest(load()) != digest(PROMPTS[1:])
