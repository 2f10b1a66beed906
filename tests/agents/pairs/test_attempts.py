"""Attempts: the shipped model's answers to dreams, with and without the instruction, and their verdicts."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.evaluator import judge
from agents.evaluator.measure import Evaluator
from agents.model import meter
from agents.model.client import ModelClient
from agents.pairs.attempts import Attempter, PairSettings
from corpus.behaviour import SHIPPED, load
from store.ledger.db import Ledger, database_url
from store.ledger.placement_trial import PlacementTrial
from store.ledger.records import Attempt, Dream, Rate, save
from store.nights import history
from store.queue.outcome import Outcome
from store.queue.work import Work

BEHAVIOURS = load([SHIPPED])
SETTINGS = PairSettings(attempts=3, instructed=2)
ASKED = {
    "listen": [
        *("I have decided to paint the plank.", "We will wax the tile.", "Let us clean the lamp."),
        *(
            f"I have decided to {verb} the {thing}."
            for verb in ("paint", "wax")
            for thing in ("crate", "bench")
        ),
    ],
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


WORK = Work(id=1, kind="attempt", subject="listen", night_id="n1", attempts=0)


def attempter(model: ModelClient, ledger: Ledger, **more: Any) -> Attempter:
    return Attempter(
        ledger=ledger,
        model=model,
        behaviours=BEHAVIOURS,
        judge=Evaluator(model=model),
        observe=lambda rate, failed, passed: {"failed": failed, "passed": passed},
        settings=SETTINGS,
        **more,
    )


@pytest.fixture
def outcome(shipped: Served, ledger: Ledger, quiet: Any) -> Callable[[], Outcome]:
    def attempt() -> Outcome:
        async def handle(model: ModelClient) -> Outcome:
            return await attempter(model, ledger).handle(WORK, quiet)

        result: Outcome = shipped(handle)
        return result

    return attempt


def attempts(outcome: Outcome) -> list[Attempt]:
    return [record for record in outcome.records if isinstance(record, Attempt)]


def test_each_dream_is_answered_until_it_has_a_good_and_a_bad_answer(outcome: Callable[[], Outcome]) -> None:
    by_dream: dict[str, list[Attempt]] = {}
    for one in attempts(outcome()):
        by_dream.setdefault(one.dream_id, []).append(one)
    assert set(by_dream) == {f"{name}{index}" for name, texts in ASKED.items() for index in range(len(texts))}
    for made in by_dream.values():
        assert made[0].told is None and len(made) <= 3 + 4
    failing = [made for name, made in by_dream.items() if name.startswith("listen") and not made[0].passed]
    assert len(failing) >= 4
    assert all({a.placement for a in made} == {None, "system", "end", "hindsight"} for made in failing)


def test_a_dream_over_the_models_window_is_left_out_and_the_others_are_answered(
    outcome: Callable[[], Outcome], ledger: Ledger
) -> None:
    said = {"role": "assistant", "content": "It is in the lab. " * 20}
    asked = {"role": "user", "content": "Let us clean the lamp."}
    with ledger.writing() as connection:
        for name, exchanges in (("long", 20), ("longish", 2)):
            dream = Dream(
                id=name, night_id="n1", behaviour="listen", temperature=1.0, seed=0, nodes=["e"],
                messages=[*[asked, said] * exchanges, asked], source="anna",
            )  # fmt: skip
            save(connection, [dream])
    result = outcome()
    answered = {attempt.dream_id for attempt in attempts(result)}
    assert "long" not in answered and {"longish", "listen0", "push_back0"} <= answered
    assert result.facts["over_window"] == 1


def test_the_trial_of_the_placements_is_recorded_with_its_counts(outcome: Callable[[], Outcome]) -> None:
    result = outcome()
    (trial,) = [record for record in result.records if isinstance(record, PlacementTrial)]
    told = {
        place: sum(a.passed for a in attempts(result) if (a.told, a.placement) == ("listen", place))
        for place in trial.told
    }
    assert (trial.night_id, trial.behaviour, trial.told) == ("n1", "listen", told)
    assert trial.placement == "system" and trial.lift >= 2  # where the recipe of this model puts it


def test_an_attempt_says_what_it_cost_and_what_it_was_told(outcome: Callable[[], Outcome]) -> None:
    for one in attempts(outcome()):
        assert 0 < one.tokens <= 48 and one.finished
        assert one.instructed == (one.told is not None) == (one.placement is not None)


def test_no_more_tokens_are_generated_than_are_left_and_the_outcome_says_so(
    shipped: Served, ledger: Ledger, quiet: Any
) -> None:
    async def left(night_id: str) -> int:
        assert night_id == "n1"
        return 4 * 48

    async def handle(model: ModelClient) -> tuple[Outcome, int]:
        with meter.metered() as spent:
            result = await attempter(model, ledger, tokens_left=left).handle(WORK, quiet)
        return result, spent.generated

    result, generated = shipped(handle)
    assert result.facts["spent"] is True and 0 < generated <= 4 * 48
    assert sum(a.tokens for a in attempts(result)) == generated


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
    instructed = [attempt.passed for attempt in answers if attempt.placement == "system"]
    assert sum(own) / len(own) < 0.5 < sum(instructed) / len(instructed)


def test_the_same_dreams_get_the_same_answers(outcome: Callable[[], Outcome]) -> None:
    assert outcome().records == outcome().records


def test_the_temperature_loop_learns_only_from_the_first_answers(outcome: Callable[[], Outcome]) -> None:
    result = outcome()
    learnt = {change.where["behaviour"]: change.values for change in result.changes}
    first = {one.dream_id: one for one in reversed(attempts(result))}
    for name in ASKED:
        passed = [one.passed for dream, one in first.items() if dream.startswith(name)]
        assert learnt[name] == {"failed": passed.count(False), "passed": passed.count(True)}
