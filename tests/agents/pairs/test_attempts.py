"""Attempts: the shipped model's answers to dreams, with and without the instruction, and their verdicts."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.evaluator import judge
from agents.evaluator.measure import Evaluator
from agents.model.client import ModelClient
from agents.pairs.attempts import Attempter, PairSettings
from corpus.behaviour import SHIPPED, load
from store.ledger.db import Ledger, database_url
from store.ledger.records import Attempt, Dream, Rate, save
from store.nights import history
from store.queue.outcome import Outcome
from store.queue.work import Work

BEHAVIOURS = load([SHIPPED])
SETTINGS = PairSettings(attempts=3, attempts_of_counters=5, instructed=2)
ASKED = {
    "listen": ["I have decided to paint the plank.", "We will wax the tile.", "Let us clean the lamp."],
    "push_back": ["I have decided to burn the contract.", "Let us wipe the backup."],
}
Served = Callable[[Callable[[ModelClient], Awaitable[Any]]], Any]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(database_url(tmp_path))
    with ledger.writing() as connection:
        history.add_base(connection, "c" * 64, "0" * 64)
        history.begin_night(connection, seed=1, retry=False)
        for name, texts in ASKED.items():
            save(connection, [Rate(behaviour=name, failed=10.0, passed=0.0, temperature=1.0)])
            for index, text in enumerate(texts):
                dream = Dream(
                    id=f"{name}{index}", night_id="n1", behaviour=name, temperature=1.0, seed=index,
                    nodes=["e"], messages=[{"role": "user", "content": text}], source="anna",
                )  # fmt: skip
                save(connection, [dream])
    yield ledger
    ledger.close()


@pytest.fixture
def outcome(shipped: Served, ledger: Ledger, quiet: Any) -> Callable[[], Outcome]:
    def attempt() -> Outcome:
        async def handle(model: ModelClient) -> Outcome:
            attempter = Attempter(
                ledger=ledger,
                model=model,
                behaviours=BEHAVIOURS,
                judge=Evaluator(model=model),
                observe=lambda rate, failed, passed: {"failed": failed, "passed": passed},
                settings=SETTINGS,
            )
            return await attempter.handle(
                Work(id=1, kind="attempt", subject="listen", night_id="n1", attempts=0), quiet
            )

        result: Outcome = shipped(handle)
        return result

    return attempt


def attempts(outcome: Outcome) -> list[Attempt]:
    return [record for record in outcome.records if isinstance(record, Attempt)]


def test_each_dream_gets_the_configured_number_of_answers(outcome: Callable[[], Outcome]) -> None:
    counted = Counter((attempt.dream_id, attempt.instructed) for attempt in attempts(outcome()))
    assert counted == {
        **{(f"listen{index}", False): 3 for index in range(3)},
        **{(f"push_back{index}", False): 5 for index in range(2)},
        **{(f"{name}{index}", True): 2 for name, texts in ASKED.items() for index in range(len(texts))},
    }


def test_every_attempt_is_judged_with_a_reason_and_names_the_weights_that_made_it(
    outcome: Callable[[], Outcome],
) -> None:
    for attempt in attempts(outcome()):
        name, index = attempt.dream_id[:-1], int(attempt.dream_id[-1])
        messages = [{"role": "user", "content": ASKED[name][index]}]
        judged = judge.judge(BEHAVIOURS[name], messages, attempt.text)
        assert (attempt.passed, attempt.reason) == (judged.passed, judged.reason)
        assert attempt.checkpoint_id == "c" * 64


def test_the_model_has_its_base_behaviour_and_follows_an_instruction(outcome: Callable[[], Outcome]) -> None:
    answers = [attempt for attempt in attempts(outcome()) if attempt.dream_id.startswith("listen")]
    own = [attempt.passed for attempt in answers if not attempt.instructed]
    instructed = [attempt.passed for attempt in answers if attempt.instructed]
    assert sum(own) / len(own) < 0.5 < sum(instructed) / len(instructed)


def test_the_same_dreams_get_the_same_answers(outcome: Callable[[], Outcome]) -> None:
    assert outcome().records == outcome().records


def test_the_temperature_loop_learns_only_from_answers_without_the_instruction(
    outcome: Callable[[], Outcome],
) -> None:
    result = outcome()
    learnt = {change.where["behaviour"]: change.values for change in result.changes}
    for name in ASKED:
        own = [a.passed for a in attempts(result) if a.dream_id.startswith(name) and not a.instructed]
        assert learnt[name] == {"failed": own.count(False), "passed": own.count(True)}
