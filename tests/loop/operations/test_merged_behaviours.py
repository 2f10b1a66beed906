"""Merge two behaviours that were trained apart, then unlearn one of them, with the real commands."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from safetensors.numpy import load_file
from small import (
    NIGHTSCHOOL,
    Service,
    cli_json,
    correction_lines,
    environment,
    run_cli,
    small_home,
    wait_until,
)

from corpus.aliases import Json
from store.checkpoints.store import CheckpointStore
from store.task_vectors.arithmetic import values

pytestmark = pytest.mark.slow  # six nights

SEED, TAUGHT, TRIALS = 3, 12, 50
"""Of the nights; scenarios of 50 that teaching a behaviour gains at least; how many there are."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """A home, and the result of each command by name."""

    home: Path
    results: dict[str, Json] = field(default_factory=dict)

    def do(self, name: str, *arguments: object) -> Json:
        self.results[name] = cli_json(self.home, *arguments)
        return self.results[name]

    def update(self, name: str) -> Json:
        (update,) = self.results[name]["updates"]
        return dict(update)

    def checkpoint(self, name: str) -> str:
        return str(self.update(name)["checkpoint"])

    def passed(self, name: str, side: str) -> dict[str, int]:
        """Return passed scenarios by behaviour, before or after a night."""
        return {row["name"]: row[side]["passed"] for row in self.results[name]["behaviours"]}


def ask(home: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def states(home: Path) -> dict[str, set[str]]:
    """Return the states of the pairs of each behaviour, from its own night."""
    states_of: dict[str, set[str]] = {}
    for name, state in ask(
        home, "SELECT behaviour, state FROM pairs WHERE behaviour IN ('listen', 'direct')"
    ):
        states_of.setdefault(name, set()).add(state)
    return states_of


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Service]) -> Iterator[Story]:
    """Teach `listen` and `direct` from the base, merge both, subtract `listen`, and roll that back."""
    folder = tmp_path_factory.mktemp("merged")
    story = Story(home=small_home(folder / "home"))
    service = start_service(story.home)
    service.ready()
    for name, kind in (("listen", "decision"), ("direct", "question")):
        log = folder / f"{kind}.jsonl"
        log.write_text("".join(f"{line}\n" for line in correction_lines(kind, 8)))
        cli_json(story.home, "ingest", log)
        story.do(name, "night", "--seed", SEED)
        cli_json(story.home, "rollback")
    shutil.copytree(story.home, folder / "apart")
    one, other = (story.checkpoint(name) for name in ("listen", "direct"))
    story.do("both", "checkpoints", "merge", one, other, "--seed", SEED)
    story.results["pairs of both"] = states(story.home)  # type: ignore[assignment]
    story.do("without", "checkpoints", "merge", f"{one}=-1", "--seed", SEED)
    story.results["pairs without"] = states(story.home)  # type: ignore[assignment]
    story.do("status", "status")
    service.process.terminate()
    assert service.process.wait(30) == 0, service.log_text()
    shutil.copytree(story.home, folder / "ended")
    yield story


@pytest.fixture
def ended(story: Story, tmp_path: Path) -> Path:
    """Copy the home at the end of the story."""
    return Path(shutil.copytree(story.home.parent / "ended", tmp_path / "home"))


def test_each_night_taught_only_its_own_behaviour(story: Story) -> None:
    for name, other in (("listen", "direct"), ("direct", "listen")):
        before, after = story.passed(name, "before"), story.passed(name, "after")
        assert story.update(name)["verdict"] == "keep"
        assert after[name] >= before[name] + TAUGHT and after[other] < before[other] + TAUGHT


def test_a_merge_onto_the_base_has_both_behaviours_and_loses_nothing_else(story: Story) -> None:
    update, before, after = (
        story.update("both"),
        story.passed("both", "before"),
        story.passed("both", "after"),
    )
    assert before == story.passed("listen", "before")  # the base
    for name in ("listen", "direct"):
        assert after[name] >= before[name] + TAUGHT, (before, after)
    assert (update["verdict"], update["objective"], update["steps"]) == ("keep", "merge", 0)
    assert update["reasons"] == ["improved: direct, listen; nothing taught or guarded is worse"]
    assert [part["updates"] for part in update["recipe"]["parts"]] == [["u1"], ["u2"]]
    assert story.results["both"]["dreams"] == story.results["both"]["turns"] == 0


def test_a_negated_behaviour_is_unlearnt_and_the_other_is_kept(story: Story) -> None:
    update, base = story.update("without"), story.passed("both", "before")
    before, after = story.passed("without", "before"), story.passed("without", "after")
    assert before == story.passed("both", "after")
    assert after["listen"] <= before["listen"] - TAUGHT and after["listen"] < base["listen"] + TAUGHT, (
        before,
        after,
    )
    assert after["direct"] >= base["direct"] + TAUGHT, (base, after)
    assert update["verdict"] == "keep"
    assert update["reasons"] == ["unlearnt: listen; nothing else taught or guarded is worse"]
    assert story.results["status"]["checkpoint"] == update["checkpoint"]


def test_the_states_of_the_pairs_agree_with_the_weights(story: Story) -> None:
    assert story.results["pairs of both"] == {"listen": {"used"}, "direct": {"used"}}
    assert story.results["pairs without"] == {"listen": {"undone"}, "direct": {"used"}}
    signals = ask(story.home, "SELECT DISTINCT behaviour, state FROM signals ORDER BY behaviour")
    assert signals == [("direct", "learnt"), ("listen", "undone")]


def test_a_rollback_of_the_unlearning_restores_weights_and_pairs(
    ended: Path, story: Story, command: Command
) -> None:
    rollback = command("--home", ended, "--json", "rollback").result
    assert rollback["undone"] == ["u4"] and rollback["to"] == story.checkpoint("both")
    assert states(ended) == {"listen": {"used"}, "direct": {"used"}}
    assert command("--home", ended, "--json", "checkpoints", "verify").result["damaged"] == []


def test_the_merged_weights_are_the_sum_of_the_base_and_both_vectors(
    story: Story, tmp_path: Path, command: Command
) -> None:
    store = CheckpointStore(story.home / "checkpoints")
    for name in ("listen", "direct"):
        out = tmp_path / f"{name}.safetensors"
        verified = command(
            "--home", story.home, "--json", "checkpoints", "vector", story.checkpoint(name), "--out", out
        )
        assert verified.code == 0 and verified.result["updates"] == [story.update(name)["id"]], verified
    vectors = [load_file(tmp_path / f"{name}.safetensors") for name in ("listen", "direct")]
    rows = command("--home", story.home, "--json", "checkpoints", "list").result["checkpoints"]
    base, merged = store.load_weights(rows[0]["id"]), store.load_weights(story.checkpoint("both"))
    for name, raw in merged.items():
        wanted = values(base[name]) + (vectors[0][name] + vectors[1][name]).ravel()
        np.testing.assert_allclose(values(raw), wanted, rtol=0, atol=1e-6)
    assert store.load_optimizer(story.checkpoint("both")) is None


def test_a_vectors_figures_are_those_of_its_file(story: Story, tmp_path: Path, command: Command) -> None:
    out, checkpoint_id = tmp_path / "v.safetensors", story.checkpoint("listen")
    figures = command(
        "--home", story.home, "--json", "checkpoints", "vector", checkpoint_id[:12], "--out", out
    ).result
    assert set(figures) == {"from", "to", "updates", "norm", "changed", "elements", "kinds", "out"}
    numbers = np.concatenate([array.ravel().astype(np.float64) for array in load_file(out).values()])
    assert figures["norm"] == pytest.approx(float(np.sqrt(numbers @ numbers)), rel=1e-9)
    assert (figures["changed"], figures["elements"]) == (np.count_nonzero(numbers), len(numbers))
    assert (
        sum(kind["elements"] for kind in figures["kinds"]) == figures["elements"]
        and figures["to"] == checkpoint_id
    )
    again = command("--home", story.home, "--json", "checkpoints", "vector", checkpoint_id, "--out", out)
    assert "is not overwritten" in again.failed(2)
    shown = command("--home", story.home, "checkpoints", "vector", f"{figures['from'][:9]}..{checkpoint_id}")
    assert shown.code == 0 and "added by u1" in shown.out and "kind of weight" in shown.out


def test_a_dry_run_reports_the_planned_merge_and_changes_nothing(story: Story, command: Command) -> None:
    before = ask(story.home, "SELECT count(*) FROM events")
    one, other = story.checkpoint("listen"), story.checkpoint("direct")
    asked = ("checkpoints", "merge", f"{one}=-0.5", other, "--method", "ties", "--dry-run")
    plan = command("--home", story.home, "--json", *asked).result
    assert (plan["dry_run"], plan["rise"], plan["unlearn"]) == (True, ["direct"], ["listen"])
    assert plan["checkpoint"] == story.checkpoint("without") and plan["reasons"] == []
    assert 0 < plan["changed"] < plan["elements"] / 2 and plan["density"] == 0.2
    shown = command("--home", story.home, *asked)
    assert shown.code == 0 and "meant to fall: listen" in shown.out and "nothing was changed" in shown.out
    assert ask(story.home, "SELECT count(*) FROM events") == before


def test_the_ledger_shows_merges_like_any_update(story: Story, command: Command) -> None:
    rows = command("--home", story.home, "--json", "ledger", "updates").result["updates"]
    assert [(row["id"], row["objective"], row["state"]) for row in rows] == [
        ("u1", "orpo", "undone"), ("u2", "orpo", "undone"), ("u3", "merge", "kept"), ("u4", "merge", "kept"),
    ]  # fmt: skip
    why = command("--home", story.home, "--json", "ledger", "why", "u3").result
    assert (
        len(why["pairs"])
        == why["update"]["pairs"]
        == story.update("listen")["pairs"] + story.update("direct")["pairs"]
    )
    assert len(why["log_lines"]) == 16 and why["update"]["recipe"]["method"] == "arithmetic"
    assert "update u3: keep" in command("--home", story.home, "ledger", "why", "u3").out


def test_a_merge_that_was_killed_ends_with_the_id_of_the_undisturbed_one(
    story: Story, tmp_path: Path
) -> None:
    """It is killed after the merge and before the verdict; the same command resumes it."""
    home = Path(shutil.copytree(story.home.parent / "apart", tmp_path / "home"))
    vectors = [story.checkpoint("listen"), story.checkpoint("direct")]
    asked = ["checkpoints", "merge", *vectors, "--seed", str(SEED), "--json"]
    first = subprocess.Popen(
        [str(NIGHTSCHOOL), "--home", str(home), *asked],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        done = "SELECT 1 FROM work WHERE kind = 'merge' AND state = 'done'"
        wait_until(lambda: ask(home, done), "the weights are merged", 120)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert ask(home, "SELECT count(*) FROM verdicts WHERE update_id = 'u3'") == [(0,)]
    refused = run_cli(home, "checkpoints", "merge", vectors[0], "--json").failed(13)
    assert "was broken off: `nightschool night` goes on with it" in refused
    (update,) = cli_json(home, *asked)["updates"]
    assert update == story.update("both")
    assert ask(home, "SELECT count(*) FROM nights") == [(3,)]


@pytest.mark.parametrize(
    "arguments, change, code, problem",
    [
        (["{one}"], "UPDATE checkpoints SET pruned = '2026-01-01T00:00:00' WHERE number = 1", 13, "pruned"),
        (["{one}"], "damage", 12, ""),
        (["{one}"], "observe", 13, "enabled"),
        (["0" * 12], "", 2, "no checkpoint begins with"),
        (["{one}=0"], "", 2, "a weight is a number other than 0"),
        (["{one}", "--density", "2", "--method", "ties"], "", 2, "over 0 and up to 1"),
    ],
)
def test_an_invalid_merge_is_refused_and_no_night_begins(
    story: Story, ended: Path, command: Command, arguments: list[str], change: str, code: int, problem: str
) -> None:
    one = story.checkpoint("listen")
    if change.startswith("UPDATE"):
        with closing(sqlite3.connect(ended / "ledger.db")) as ledger, ledger:
            ledger.execute(change)
    elif change == "observe":
        config = ended / "config.toml"
        config.write_text(config.read_text().replace("[training]", "[training]\nenabled = false"))
    elif change == "damage":
        manifest = json.loads((ended / "checkpoints" / f"{one}.json").read_text())
        (path,) = (ended / "checkpoints" / "blobs").glob(f"{manifest['weights']}*")
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    names = (text.format(one=one[:12]) for text in arguments)
    assert problem in command("--home", ended, "--json", "checkpoints", "merge", *names).failed(code)
    assert ask(ended, "SELECT count(*) FROM nights") == [(4,)]
