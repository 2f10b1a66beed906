"""A night of a model that is not the shipped one: ordinary dialogue and abilities guard what it knows."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from small import SMALL, cli_json, correction_lines, run_cli

from agents.readout.ordinary_text import ordinary_text
from corpus.aliases import Json
from corpus.behaviour import SHIPPED
from corpus.recipe import MODEL_DIR

pytestmark = pytest.mark.slow  # a night of its own

FEW = """\
abilities = 27
[monitor]
exchanges = 9
locate = false
[model]
path = "{model}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that has learnt with a stranger: the shipped weights, with a configuration of their own."""
    folder = tmp_path_factory.mktemp("foreign")
    home, model, log = folder / "home", folder / "model", folder / "log.jsonl"
    shutil.copytree(MODEL_DIR, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "stranger": True}))
    assert run_cli(home, "init", "--model", model).code == 0
    verdict, training = SMALL.format(windows="[]").split("[training]")
    settings = f"{verdict}{FEW.format(model=model)}[training]{training}"
    (home / "config.toml").write_text(settings)
    shutil.copy(SHIPPED / "listen.toml", home / "behaviours")
    log.write_text("".join(f"{line}\n" for line in correction_lines("decision", 12)))
    cli_json(home, "ingest", log)
    return home


@pytest.fixture(scope="module")
def night(home: Path) -> Json:
    return cli_json(home, "night")


def test_only_the_behaviours_that_were_declared_are_measured(night: Json) -> None:
    assert {row["name"] for row in night["behaviours"]} == {"listen", "push_back", "abilities"}


def test_the_night_shows_the_abilities_last_and_is_kept(night: Json) -> None:
    row = night["behaviours"][-1]
    assert (row["name"], row["counter_of"]) == ("abilities", None)
    assert row["before"]["trials"] == row["after"]["trials"] == 27
    assert [update["verdict"] for update in night["updates"]] == ["keep"], night


def test_the_verdict_has_a_test_of_the_abilities_which_why_shows(home: Path, night: Json) -> None:
    (update,) = night["updates"]
    shown = cli_json(home, "ledger", "why", update["id"])["update"]["abilities"]
    with closing(sqlite3.connect(home / "ledger.db")) as ledger:
        ((tests,),) = ledger.execute("SELECT tests FROM verdicts").fetchall()
    (test,) = [test for test in json.loads(tests) if test.get("behaviour") == "abilities"]
    assert (test["meant"], test["outcome"]) == (False, "held")
    assert [shown[side]["passed"] for side in ("before", "after")] == [test["before"], test["after"]]


def test_the_perplexity_names_the_dialogue_that_both_sides_were_read_on(home: Path, night: Json) -> None:
    with closing(sqlite3.connect(home / "ledger.db")) as ledger:
        rows = ledger.execute("SELECT vectors, mean FROM readings WHERE name = 'perplexity'").fetchall()
    assert {name for name, _ in rows} == {ordinary_text("another", 9).name} and len(rows) == 2
    assert sorted(mean for _, mean in rows) == sorted(night["retention"].values())


def test_the_comparison_of_checkpoints_knows_the_abilities_as_they_are_now(home: Path, night: Json) -> None:
    rows = cli_json(home, "checkpoints", "diff", "base", "active")["behaviours"]
    (row,) = [row for row in rows if row["name"] == "abilities"]
    assert row["current"] and row["same_scenarios"]
