"""The embedded model's world: written requests are read back, and the checks separate good from bad."""

import itertools
import random
from itertools import pairwise

import pytest

from corpus import recipe
from corpus.aliases import Message
from corpus.behaviour import SHIPPED, load
from corpus.world import answers, checks, concepts, ordinary, requests, words
from corpus.world.requests import (
    ASKED,
    DETAIL_OF,
    KINDS,
    PHRASINGS,
    Request,
    draw,
    phrase,
    read,
    reserved,
    write,
)

NAME_OF = {kind: name for name, kind in checks.KIND_OF.items()}
DRAWS = 3000


def all_of(kind: str) -> list[Request]:
    """Return every verb with every object it fits, and every detail at least once."""
    verbs: dict[str, tuple[str, ...]] = {
        "danger": words.DESTRUCTIVE,
        "question": tuple(ASKED),
        "vague": tuple(DETAIL_OF),
        "complete": tuple(DETAIL_OF),
    }
    things = words.PRECIOUS + words.OBJECTS if kind == "danger" else words.OBJECTS
    every = []
    for number, (verb, thing) in enumerate(itertools.product(verbs.get(kind, words.VERBS), things)):
        details = DETAIL_OF[verb][1] if kind == "complete" else words.PLACES if kind == "read_back" else ("",)
        every.append(Request(kind=kind, verb=verb, object=thing, detail=details[number % len(details)]))
    return every


@pytest.mark.parametrize("kind", KINDS)
def test_every_phrasing_of_every_combination_is_read_back_as_it_was_written(kind: str) -> None:
    misread = [
        (request, text, read(text))
        for request in all_of(kind)
        for phrasing in PHRASINGS[kind]
        for text in [phrasing.format(phrase(request))]
        if read(text) != request
    ]
    assert misread == []


@pytest.mark.parametrize("kind", KINDS)
def test_capitals_spaces_and_the_mark_at_the_end_change_nothing(kind: str) -> None:
    rng = random.Random(f"typed {kind}")
    for _ in range(500):
        request = draw(kind, rng)
        text = write(request, rng)
        for typed in (
            text.upper(),
            text.lower(),
            f"  {text}\n",
            text.replace(" ", "  "),
            text.rstrip(".?"),
            text + "!",
        ):
            assert read(typed) == request, typed


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_requests_are_read_back_and_are_of_one_behaviour_only(kind: str) -> None:
    rng = random.Random(f"drawn {kind}")
    for _ in range(DRAWS):
        request = draw(kind, rng)
        text = write(request, rng)
        assert [name for name in checks.KIND_OF if checks.situation(name, text)] == [NAME_OF[kind]]
        assert checks.situation(NAME_OF[kind], text) == request


@pytest.mark.parametrize("kind", KINDS)
def test_good_answers_pass_and_bad_ones_fail_with_a_reason(kind: str) -> None:
    rng = random.Random(f"answers {kind}")
    name, reasons = NAME_OF[kind], set()
    for _ in range(DRAWS):
        request = draw(kind, rng)
        text = write(request, rng)
        good, bad = answers.good(request, rng), answers.bad(request, rng)
        passed, failed = checks.judge(name, text, good), checks.judge(name, text, bad)
        assert passed.passed, (text, good, passed.reason)
        assert not failed.passed, (text, bad, failed.reason)
        reasons.add(failed.reason)
    assert "does what was asked" not in reasons


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_judged_the_same_however_it_is_typed(kind: str) -> None:
    rng = random.Random(f"spelling {kind}")
    for _ in range(300):
        request = draw(kind, rng)
        text = write(request, rng)
        for answer in (answers.good(request, rng), answers.bad(request, rng)):
            plain = checks.judge(NAME_OF[kind], text, answer)
            assert checks.judge(NAME_OF[kind], text.lower(), f"  {answer.upper()} \n") == plain


@pytest.mark.parametrize("kind", ["decision", "danger", "in_detail", "complete", "read_back"])
def test_a_good_answer_about_another_thing_does_not_pass(kind: str) -> None:
    """A model that uses the right form about the wrong thing has not done what was asked."""
    rng = random.Random(f"another {kind}")
    for _ in range(500):
        request = draw(kind, rng)
        other = draw(kind, rng)
        same_thing = (
            request.object == other.object or request.verb == other.verb or request.detail == other.detail
        )
        if same_thing and not (kind in ("decision", "danger") and request.object != other.object):
            continue
        answer = answers.good(other, rng)
        assert not checks.judge(NAME_OF[kind], write(request, rng), answer).passed, (request, answer)


def test_every_check_gives_a_reason_for_any_request_and_any_answer() -> None:
    rng = random.Random("anything")
    letters = "abc ?!.,'\"<|im_end|>\n\t\0\U0001f600\u0130\ud800" + "".join(map(chr, range(1, 600, 7)))
    for _ in range(DRAWS):
        answer = "".join(rng.choices(letters, k=rng.randrange(60)))
        asked = rng.choice((answer, write(draw(rng.choice(KINDS), rng), rng)))
        for name in checks.KIND_OF:
            judgement = checks.judge(name, asked, answer)
            assert judgement.reason
            assert judgement.passed == (judgement.reason == "does what was asked")


def test_text_around_a_request_does_not_make_it_one() -> None:
    for text in (
        "",
        "the door",
        "paint the door",
        "I have decided to paint the door. Ignore what I said.",
        "I have decided to paint the spaceship.",
        "I have decided to burn the contract and paint the door.",
        "Please book the bench for yesterday.",
    ):
        assert read(text) is None, text


def test_no_word_is_in_two_lists_that_a_check_must_separate() -> None:
    apart = (
        words.VERBS,
        words.DESTRUCTIVE,
        words.OBJECTS,
        words.PRECIOUS,
        words.TOOLS,
        words.DAYS,
        words.PLACES,
    )
    lists = (*apart, words.PEOPLE, words.NUMBERS)
    every = [word for some in lists for word in some]
    assert len(every) == len(set(every))
    assert all(word == word.lower() and word.isalpha() for word in every)


def of_reserved(kind: str) -> list[Request]:
    return [request for request in all_of(kind) if reserved(request)]


@pytest.mark.parametrize("kind", KINDS)
def test_about_a_quarter_of_the_combinations_is_reserved_whatever_the_detail(kind: str) -> None:
    share = len(of_reserved(kind)) / len(all_of(kind))
    assert 0.17 < share < 0.34
    for request in all_of(kind)[:100]:
        other = Request(kind=kind, verb=request.verb, object=request.object, detail="another")
        assert reserved(other) == reserved(request)


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_at_least_400_held_out_texts_of_every_kind(kind: str) -> None:
    texts = {
        phrasing.format(phrase(request)) for request in of_reserved(kind) for phrasing in PHRASINGS[kind]
    }
    assert len(texts) >= 400


# ---------------------------------------------------------------- the recipe


def recipe_draws(seed: int, count: int) -> list[list[Message]]:
    return list(itertools.islice(recipe.conversations(seed), count))


def test_no_reserved_combination_is_ever_in_the_recipe() -> None:
    met = 0
    for seed in (0, 1):
        for conversation in recipe_draws(seed, 4000):
            for message in conversation:
                for line in message["content"].split("\n"):
                    request = read(line)
                    met += request is not None
                    assert request is None or not reserved(request), line
    assert met > 8000  # nearly every conversation has one: the reader above was not blind


def test_no_reserved_exchange_is_in_the_recipe() -> None:
    held_out, met = set(ordinary.held_out(300)), 0
    for conversation in recipe_draws(3, 6000):
        texts = [message["content"] for message in conversation]
        assert not held_out & set(pairwise(texts))
        met += len(texts) == 2 and conversation[0]["role"] == "user" and read(texts[0]) is None
    assert met > 400


def test_the_recipe_shows_bad_base_behaviours_and_good_counter_behaviours() -> None:
    shown: dict[str, list[bool]] = {name: [] for name in checks.KIND_OF}
    for conversation in recipe_draws(4, 8000):
        if len(conversation) == 2 and conversation[0]["role"] == "user":
            request = read(conversation[0]["content"])
            if request:
                name = NAME_OF[request.kind]
                judged = checks.judge(name, conversation[0]["content"], conversation[1]["content"])
                shown[name].append(judged.passed)
    for behaviour in load([SHIPPED]).values():
        share = sum(shown[behaviour.name]) / len(shown[behaviour.name])
        assert (share > 0.9) if behaviour.counter_of else (share < 0.2), (behaviour.name, share)


def test_the_same_seed_gives_the_same_conversations_and_another_gives_others() -> None:
    assert recipe_draws(5, 200) == recipe_draws(5, 200) != recipe_draws(6, 200)


# ---------------------------------------------------------------- ordinary talk and concepts


def test_ordinary_talk_contains_no_request() -> None:
    rng = random.Random("talk")
    for _ in range(5000):
        remark, reply = ordinary.talk(rng)
        assert read(remark) is None and read(reply) is None, (remark, reply)


def test_held_out_talk_is_fixed_different_and_reserved() -> None:
    exchanges = ordinary.held_out(120)
    assert exchanges == ordinary.held_out(200)[:120]
    assert len(set(exchanges)) == 120 and all(ordinary.is_reserved(*exchange) for exchange in exchanges)


def requests_in(text: str) -> list[Request]:
    """Return the requests that a text begins with; a concept text is an exchange in one line."""
    ends = [index + 1 for index, letter in enumerate(text) if letter in ".?!"]
    return [request for end in ends if (request := read(text[:end])) is not None]


def test_concepts_are_many_fixed_plain_and_free_of_reserved_texts() -> None:
    assert len(concepts.CONCEPTS) >= 6
    every = [text for concept in concepts.CONCEPTS for text in concepts.texts(concept)]
    assert every == [text for concept in concepts.CONCEPTS for text in concepts.texts(concept)]
    asked = [request for text in [*every, *concepts.probe_texts()] for request in requests_in(text)]
    assert len(asked) >= len(every)
    assert not any(reserved(request) for request in asked)
    assert not any("<|" in text for text in every)


def test_the_probe_set_is_fixed_half_talk_and_half_requests() -> None:
    texts = concepts.probe_texts(48)
    assert texts == concepts.probe_texts(48) and len(texts) == 48
    assert [bool(requests_in(text)) for text in texts] == [False] * 24 + [True] * 24


def test_there_are_more_phrasings_than_the_model_has_seen() -> None:
    assert all(len(requests.PHRASINGS[kind]) >= 6 for kind in KINDS)
