"""Steering through the real command line and service: questions, sweeps and predictions."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from small import Service, cli_json, run_cli, small_home

from corpus.world import answers
from corpus.world.requests import draw, reserved, write
from store import queries
from store.ledger.db import Ledger, database_url
from store.ledger.records import Attempt, Dream, save
from store.nights import history

pytestmark = pytest.mark.slow  # nine hundred answers; tests/agents/model/steering steers few

DREAMS, MISSING = 16, 3


def dreamt(home: Path) -> None:
    """A night that dreamt of `listen` and `direct`, of the latter too little, and trained nothing."""
    ledger, rng = Ledger(database_url(home)), random.Random(3)
    with ledger.writing() as connection:
        night, base = history.begin_night(connection, seed=0, retry=False), queries.active(connection).id
        for behaviour, kind, count in (("listen", "decision", DREAMS), ("direct", "question", 8 - MISSING)):
            for number in range(count):
                while reserved(request := draw(kind, rng)):
                    pass
                name = f"d{behaviour}{number}"
                messages = [{"role": "user", "content": write(request, rng)}]
                dream = Dream(
                    id=name, night_id=night, behaviour=behaviour, messages=messages, temperature=1.0,
                    seed=number, nodes=[], source="ada",
                )  # fmt: skip
                attempts = [
                    Attempt(
                        id=f"a{name}{say.__name__}", dream_id=name, text=say(request, rng), instructed=False,
                        temperature=1.0, seed=1, checkpoint_id=base,
                        passed=say is answers.good, reason="planted",
                    )
                    for say in (answers.good, answers.bad)
                ]  # fmt: skip
                save(connection, [dream, *attempts])
        history.close_night(connection, night_id=night)
    ledger.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Service]) -> Service:
    """Run a service whose home has dreams and no vectors yet."""
    home = small_home(tmp_path_factory.mktemp("steered") / "home")
    config = (home / "config.toml").read_text().replace("scenarios = 32", "scenarios = 100")
    (home / "config.toml").write_text(config)
    dreamt(home)
    service = start_service(home)
    service.ready()
    return service


@pytest.fixture(scope="module")
def swept(served: Service) -> Any:
    """Return the result of `readout behaviour listen`."""
    early = run_cli(served.home, "ask", "hello", "--steer", "listen=40", "--json").failed(2)
    assert "`nightschool readout train`" in early
    return cli_json(served.home, "readout", "behaviour", "listen")


def test_a_behaviours_own_vector_raises_its_pass_rate_as_predicted(swept: Any) -> None:
    assert (swept["attempts"], swept["dreams"], swept["layer"]) == (2 * DREAMS, DREAMS, 1)
    assert swept["prediction"] == swept["sweep"]["verdict"] == "raises"
    assert [prediction["said"] for prediction in swept["predictions"]] == ["raises"]
    assert swept["predictions"][0]["updates"] == []
    rows = {row["strength"]: row for row in swept["sweep"]["strengths"]}
    assert len(rows) == 7 and rows[0.0]["trials"] == 100 and not rows[0.0]["broken"]
    assert all(row["low"] <= row["passed"] / row["trials"] <= row["high"] for row in rows.values())
    assert max(row["perplexity"] for row in rows.values()) > rows[0.0]["perplexity"]


def test_a_sweep_takes_strengths_and_a_behaviour_and_is_deterministic(served: Service, swept: Any) -> None:
    asked = (
        "readout",
        "sweep",
        "listen",
        "--strengths",
        "-30,30",
        "--behaviour",
        "push_back",
        "--behaviour",
        "listen",
    )
    first, again = cli_json(served.home, *asked), cli_json(served.home, *asked)
    assert first == again and first["concept"] == "listen"
    assert [sweep["behaviour"] for sweep in first["sweeps"]] == ["push_back", "listen"]
    assert [row["strength"] for row in first["sweeps"][1]["strengths"]] == [-30.0, 0.0, 30.0]
    ledger = Ledger(database_url(served.home))
    with ledger.reading() as connection:
        sweeps = connection.exec_driver_sql(
            "SELECT concept, behaviour, layer FROM sweeps ORDER BY behaviour, id"
        ).all()
    ledger.close()
    assert sweeps == [("listen", "listen", 1), ("listen", "listen", 1), ("listen", "push_back", 1)]


def test_an_answer_is_steered_by_a_concept_and_a_strength(served: Service, swept: Any) -> None:
    answers_at = [
        cli_json(served.home, "ask", "Today I want to paint the door.", *more)["answer"]
        for more in ((), ("--steer", "listen=0"), *(("--steer", "listen=2000"),) * 2)
    ]
    assert answers_at[2] != answers_at[0] and "door" not in answers_at[3], "so strong a push leaves no sense"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ("ask", "hello", "--steer", "anger=4"),
            2,
            "there is no concept 'anger'; there are listen. `nightschool",
        ),
        (("ask", "hello", "--steer", "listen"), 2, "CONCEPT=STRENGTH"),
        (("ask", "hello", "--steer", "listen=nan"), 2, "CONCEPT=STRENGTH"),
        (("readout", "sweep", "anger"), 2, "there is no concept 'anger'"),
        (("readout", "sweep", "listen", "--behaviour", "anger"), 2, "there is no behaviour 'anger'"),
        (("readout", "sweep", "listen", "--strengths", "much"), 2, "numbers separated by commas"),
        (("readout", "sweep", "listen", "--strengths", "1e9"), 2, "the most that is allowed"),
        (("readout", "behaviour", "anger"), 2, "there is no behaviour 'anger'"),
        (("readout", "behaviour", "direct"), 13, f"{MISSING} are missing. `nightschool night`"),
    ],
)
def test_an_invalid_request_is_refused_with_the_cure(
    served: Service, swept: Any, command: Command, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    assert sentence in command("--home", served.home, *arguments, "--json").failed(code)


def test_the_sweep_predicts_at_least_three_of_the_four_behaviours(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import steering_predicts

    monkeypatch.setattr("sys.argv", ["steering_predicts", "--chance", "0"])
    assert steering_predicts.main() == 0
