"""The catalogue of checks: each check against its examples, and both sides of the rule that it makes."""

import tomllib
from collections.abc import Iterator
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from corpus.checks import catalogue, language, situations
from corpus.checks.catalogue import CATALOGUE, applies, fault, refusal
from corpus.checks.requests import requests
from corpus.checks.sides import RULES, Rule, sides

EXAMPLES = Path(catalogue.__file__).parent / "examples"
NAMES = (
    "max_words min_words max_sentences no_markdown only_code json language no_phrase starts_with "
    "not_starting_with no_emoji no_question_at_end asks_first units spelling date_format form_of_address "
    "bullets numbered headings cites_the_input no_apology no_flattery"
).split()
Case = dict[str, Any]


@cache
def cases(name: str) -> list[Case]:
    found: list[Case] = tomllib.loads((EXAMPLES / f"{name}.toml").read_text("utf-8"))["case"]
    return found


def outcomes(name: str, **changed: int) -> list[bool]:
    """Whether each example passes, with some parameters changed."""
    return [
        not fault(name, {**case.get("parameters", {}), **changed}, case.get("request", ""), answer)
        for case in cases(name)
        for answer in (*case["passes"], *case["fails"])
    ]


def rules() -> Iterator[Rule]:
    for name in NAMES:
        seen = []
        for case in cases(name):
            parameters = case.get("parameters", {})
            if parameters not in seen:
                seen.append(parameters)
                yield sides(name, parameters)


def test_the_catalogue_has_the_checks_that_behaviour_files_name() -> None:
    assert list(CATALOGUE) == NAMES and set(RULES) == set(NAMES)
    assert {path.stem for path in EXAMPLES.glob("*.toml")} == set(NAMES)
    assert all((check.function.__doc__ or "").strip() for check in CATALOGUE.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_check_passes_its_good_examples_and_fails_its_bad_ones(name: str) -> None:
    wrong = []
    for case in cases(name):
        parameters = case.get("parameters", {})
        assert not refusal(name, parameters, {})
        for side, expected in (("passes", True), ("fails", False)):
            for answer in case[side]:
                found = fault(name, parameters, case.get("request", ""), answer)
                wrong += [(answer, found)] if (not found) != expected else []
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_a_check_has_eight_examples_a_side_and_two_languages_where_language_matters(name: str) -> None:
    for side in ("passes", "fails"):
        assert sum(len(case[side]) for case in cases(name)) >= 8
        languages = {case["language"] for case in cases(name) if case[side]}
        assert CATALOGUE[name].any_language or len(languages) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_an_example_notices_when_a_number_of_a_check_moves_by_one(name: str) -> None:
    own = signature(CATALOGUE[name].function).parameters
    for key, parameter in CATALOGUE[name].parameters.items():
        if parameter.kind != "number":
            continue
        for step in (-1, 1):
            moved = False
            for case in cases(name):
                number = case.get("parameters", {}).get(key, own[key].default)
                for side in ("passes", "fails"):
                    for answer in case[side]:
                        changed = {**case.get("parameters", {}), key: number + step}
                        moved |= bool(fault(name, changed, case.get("request", ""), answer)) == (
                            side == "passes"
                        )
            assert moved, f"{key} {step:+d}"


@pytest.mark.parametrize(
    "constant, value", [("FEWEST", 1), ("FEWEST", 3), ("SCRIPT_SHARE", 0.1), ("SCRIPT_SHARE", 0.9)]
)
def test_an_example_notices_when_a_threshold_of_the_languages_moves(
    monkeypatch: pytest.MonkeyPatch, constant: str, value: float
) -> None:
    before = outcomes("language")
    monkeypatch.setattr(language, constant, value)
    assert outcomes("language") != before


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "```", "[" * 20_000, "é", "½ ٣", "\ud800", "> " * 500, "|" * 2000]
)
def test_no_text_breaks_a_check(text: str) -> None:
    for name in NAMES:
        parameters = cases(name)[0].get("parameters", {})
        assert isinstance(fault(name, parameters, text, text), str)


@pytest.mark.parametrize(
    "name, parameters, where, complaint",
    [
        ("sing", {}, {}, "no check is named 'sing'; there are asks_first, bullets"),
        ("max_words", {}, {}, "the check max_words needs the parameter 'most'"),
        ("max_words", {"least": 3}, {}, "no parameter 'least'; it has most"),
        ("no_emoji", {"most": 3}, {}, "no parameter 'most'; it has none"),
        ("max_words", {"most": "3"}, {}, "must be a whole number from 1 to 100000, not '3'"),
        ("max_words", {"most": True}, {}, "must be a whole number"),
        ("max_words", {"most": 0}, {}, "must be a whole number"),
        ("language", {"code": "xx"}, {}, "must be one of de, en, es"),
        ("starts_with", {"text": " "}, {}, "must be a text that is not empty"),
        ("no_phrase", {"phrases": []}, {}, "must be a list of texts"),
        ("no_phrase", {"phrases": "delve"}, {}, "must be a list of texts"),
        ("no_emoji", {}, {"unless": "often"}, "unless: no situation is named 'often'; there are american"),
    ],
)
def test_a_judge_that_cannot_work_is_refused_with_what_there_is(
    name: str, parameters: dict[str, object], where: dict[str, str], complaint: str
) -> None:
    assert complaint in refusal(name, parameters, where)


def test_the_two_sides_of_a_rule_have_requests_and_share_none() -> None:
    for rule in rules():
        for side in (rule.rule, rule.counter):
            where = {key: value for key, value in (("when", side.when), ("unless", side.unless)) if value}
            assert not refusal(side.check, side.parameters, where)
            made = requests(rule, side)
            assert len(made.held_out) >= 8 and len(made.examples) >= 3, (rule.name, side.when)
            assert not set(made.held_out) & set(made.examples)
            assert all(applies(text, side.when, side.unless) for text in (*made.held_out, *made.examples))
            other = rule.counter if side is rule.rule else rule.rule
            assert not any(
                applies(text, other.when, other.unless) for text in (*made.held_out, *made.examples)
            )


@pytest.mark.parametrize(
    "situation, inside, outside",
    [
        ("detail", "Wie geht das? Bitte ausführlich.", "How does it work?"),
        ("list", "A list of rivers, please.", "I listened to it."),
        ("text", 'Check: "' + "word " * 20 + '"', 'Check: "a word"'),
        (
            "text",
            "word " * (situations.GIVEN_WORDS - 1) + "end:",
            "word " * (situations.GIVEN_WORDS - 2) + "end:",
        ),
        ("vague", "one two three four five six", "one two three four five six seven"),
        ("dollars", "What is it in $?", "What is it?"),
    ],
)
def test_a_situation_is_found_by_its_words(situation: str, inside: str, outside: str) -> None:
    assert situations.is_in(inside, situation) and not situations.is_in(outside, situation)
