"""One small night through the real command line: from a log to changed weights, back, and forth again."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Command
from small import Service, cli_json, correction_lines, run_cli, small_home

from corpus.aliases import Json
from corpus.json_edge import to_json
from loop.operations.status import status
from store.home import Home

SEED = 3
SECRETS = (
    "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGH",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "hunter2-is-my-password",
    "MIIEpAIBAAKCAQEA7bq3TheSecretPartOfThisKey",
)
LEAK = (
    f"My key is {SECRETS[0]} and aws {SECRETS[1]}, token {SECRETS[2]}. "
    f"See https://anna:{SECRETS[3]}@example.com/x\n"
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRETS[4]}\n-----END RSA PRIVATE KEY-----"
)


@dataclass(frozen=True, kw_only=True)
class Story:
    """A home, and the result of each command by name, in order."""

    home: Path
    log: Path
    results: dict[str, Json] = field(default_factory=dict)

    def do(self, name: str, *arguments: object) -> Json:
        """Run a command that has to succeed, and store its result."""
        self.results[name] = cli_json(self.home, *arguments)
        return self.results[name]

    def rates(self, name: str, side: str | None = None) -> dict[str, Json]:
        """Return pass rates by behaviour, of a night before or after, or of a measurement."""
        rows = self.results[name]["behaviours"]
        keys = ("passed", "trials")
        return {row["name"]: {key: (row[side] if side else row)[key] for key in keys} for row in rows}


def the_log() -> str:
    """Return corrections of two base behaviours, a conversation with secrets, and two invalid lines."""
    leak = json.dumps({"user": "user 1", "messages": [{"role": "user", "content": LEAK}]})
    lines = [*correction_lines("decision", 6), *correction_lines("question", 6), leak, "{not json", "[]"]
    return "".join(f"{line}\n" for line in lines)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Service]) -> Iterator[Story]:
    """Run a night and a rollback; then, with a service, a measurement, an empty night and a retry."""
    folder = tmp_path_factory.mktemp("night")
    log = folder / "office.jsonl"
    log.write_text(the_log())
    story = Story(home=small_home(folder / "home"), log=log)
    ingested = run_cli(story.home, "ingest", log, "--json")
    assert ingested.code == 3, ingested
    story.results["ingest"] = ingested.result
    story.results["status 0"] = to_json(status(story.home))  # as the command has it, without its start
    story.do("night", "night", "--seed", SEED)
    story.do("status 1", "status")
    shutil.copytree(story.home, folder / "kept")
    story.do("dry", "rollback", "--dry-run")
    story.do("rollback", "rollback")
    story.results["status 2"] = to_json(status(story.home))
    with closing(sqlite3.connect(story.home / "ledger.db")) as ledger, ledger:
        ledger.execute("DELETE FROM measurements")  # or the next measurement would only be read from here
    service = start_service(story.home)
    service.ready()
    story.do("measure", "behaviours", "measure", "--seed", SEED)
    story.do("pin", "checkpoints", "pin", story.results["night"]["updates"][0]["checkpoint"])
    story.do("nothing", "night", "--seed", SEED)
    story.do("retry", "night", "--retry", "--seed", SEED)
    story.do("prune", "checkpoints", "prune", "--keep-last", 1)
    story.results["status 3"] = to_json(status(story.home))
    story.results["found"] = {secret: files_with(story.home, secret) for secret in SECRETS}
    service.process.terminate()
    assert service.process.wait(30) == 0, service.log_text()
    yield story


@pytest.fixture
def kept_home(story: Story, tmp_path: Path) -> Path:
    """Copy the home as it was after its kept night."""
    return Path(shutil.copytree(story.home.parent / "kept", tmp_path / "home"))


def files_with(home: Path, text: str) -> list[str]:
    """Return the files of a home, and of its run directory, that hold this text."""
    places = [*home.rglob("*"), *Home(home).run_dir.rglob("*")]
    return [str(path) for path in places if path.is_file() and text.encode() in path.read_bytes()]


# ---------------------------------------------------------------- the night


def test_an_ingest_reports_what_it_read_and_quarantines_bad_lines(story: Story) -> None:
    result = story.results["ingest"]
    assert {"files", "conversations", "turns", "set_aside"} <= set(result)
    assert result["files"] == [
        {"path": str(story.log), "format": "openai", "encoding": "utf-8", "compression": None}
    ]
    assert result["conversations"] == {"new": 13, "known": 0} and result["turns"] == 4 * 12 + 1
    assert [(line["path"], line["line"]) for line in result["set_aside"]] == [
        (str(story.log), 14),
        (str(story.log), 15),
    ]
    assert all(line["reason"] for line in result["set_aside"])


def test_a_night_reports_exactly_the_documented_fields(story: Story) -> None:
    result = story.results["night"]
    assert set(result) == {
        "conversations", "turns", "signals", "nodes", "dreams", "pairs", "seconds", "reasons", "updates",
        "behaviours", "retention", "dream_forms", "tokens", "tokens_per_pair", "placements", "sources",
        "grown_words",
    }  # fmt: skip
    (update,) = result["updates"]
    assert set(update) == {"id", "objective", "steps", "pairs", "verdict", "checkpoint", "reasons", "chosen"}
    assert all(set(row) == {"name", "counter_of", "before", "after"} for row in result["behaviours"])
    assert all(
        set(row[side]) == {"passed", "trials"} for row in result["behaviours"] for side in ("before", "after")
    )
    assert set(result["retention"]) == {"before", "after"}


def test_the_night_learnt_from_the_log_and_its_update_was_kept(story: Story) -> None:
    result = story.results["night"]
    assert (result["conversations"], result["turns"], result["signals"]) == (13, 49, 12)
    (update,) = result["updates"]
    assert (update["verdict"], update["objective"]) == ("keep", "orpo")
    assert update["steps"] > 0 and update["pairs"] == result["pairs"] >= 8 and result["dreams"] >= 32
    before, after = story.rates("night", "before"), story.rates("night", "after")
    for habit in ("listen", "direct"):
        assert after[habit]["passed"] >= before[habit]["passed"] + 12, (before, after)
    assert {row["trials"] for row in after.values()} == {32} and len(after) == 8
    assert 1.0 < result["retention"]["after"] < 1.1 * result["retention"]["before"]


def test_the_status_has_the_documented_fields_and_shows_the_update(story: Story) -> None:
    before, after = story.results["status 0"], story.results["status 1"]
    documented = {"weights_version", "weights_sha256", "checkpoint", "queue", "set_aside", "last_update"}
    assert documented | {"next_update_reason"} <= set(after)
    assert before["last_update"] is None and before["set_aside"] == {"lines": 2, "work": []}
    assert before["queue"] == {"extract": 13} and after["queue"] == {}
    assert (
        after["checkpoint"]
        == after["last_update"]["checkpoint"]
        == story.results["night"]["updates"][0]["checkpoint"]
    )
    assert after["weights_sha256"] != before["weights_sha256"]
    assert after["weights_version"] > before["weights_version"] and after["service"] == "down"


def test_why_traces_the_update_to_the_lines_of_the_log(
    story: Story, kept_home: Path, command: Command
) -> None:
    update = story.results["night"]["updates"][0]
    why = command("--home", kept_home, "--json", "ledger", "why", update["id"]).result
    assert len(why["pairs"]) == update["pairs"]
    lines = story.log.read_text().splitlines()
    assert {line["path"] for line in why["log_lines"]} == {str(story.log)}
    numbers = {line["line"] for line in why["log_lines"]}
    assert len(numbers) >= 10 and numbers <= set(range(1, 13))
    assert all(line["text"] in lines[line["line"] - 1] for line in why["log_lines"])
    pair = command("--home", kept_home, "--json", "ledger", "why", why["pairs"][0]["id"]).result
    assert pair["log_lines"] and pair["chosen"] != pair["rejected"]


@pytest.mark.parametrize("name", ["updates", "pairs", "dreams", "signals", "events"])
def test_every_list_of_the_ledger_is_one_object_and_can_be_shown(
    kept_home: Path, name: str, command: Command
) -> None:
    rows = command("--home", kept_home, "--json", "ledger", name, "--limit", 3).result[name]
    assert 1 <= len(rows) <= 3
    shown = command("--home", kept_home, "ledger", name)
    assert shown.code == 0 and str(rows[-1].get("id", rows[-1].get("seq")))[:6] in shown.out


# ---------------------------------------------------------------- and back


def test_a_dry_run_reports_what_would_be_undone_and_changes_nothing(story: Story) -> None:
    dry, done = story.results["dry"], story.results["rollback"]
    assert dry["dry_run"] is True and done == {**dry, "dry_run": False}
    assert dry["from"] == story.results["status 1"]["checkpoint"] and dry["undone"] == ["u1"]


def test_a_rollback_brings_the_weights_back_bit_for_bit(story: Story) -> None:
    before, after = story.results["status 0"], story.results["status 2"]
    assert (after["weights_sha256"], after["checkpoint"]) == (before["weights_sha256"], before["checkpoint"])
    assert after["weights_version"] > story.results["status 1"]["weights_version"]
    assert after["last_update"]["state"] == "undone"


def test_the_pass_rates_after_a_rollback_are_exactly_those_before_the_night(story: Story) -> None:
    assert story.results["measure"]["weights_sha256"] == story.results["status 0"]["weights_sha256"]
    assert story.rates("measure") == story.rates("night", "before") != story.rates("night", "after")


def test_the_next_night_does_not_repeat_an_undone_update_and_gives_the_reason(story: Story) -> None:
    result = story.results["nothing"]
    assert result["updates"] == result["behaviours"] == [] and result["retention"] is None
    (reason,) = result["reasons"]
    assert "undone updates are set aside" in reason and "night --retry" in reason


def test_a_retry_repeats_the_undone_update_with_the_same_weights(story: Story) -> None:
    """The pairs and the parent are the same; only the night's seed differs."""
    (update,) = story.results["retry"]["updates"]
    assert (update["id"], update["verdict"]) == ("u3", "keep")
    assert update["pairs"] == story.results["night"]["updates"][0]["pairs"]
    assert story.results["status 3"]["checkpoint"] == update["checkpoint"]
    assert story.rates("retry", "before") == story.rates("night", "before")


def test_a_planted_secret_is_in_no_file_of_the_home(story: Story) -> None:
    assert story.results["found"] == {
        secret: [] for secret in SECRETS
    }  # while the service ran, with the log of writes
    assert {secret: files_with(story.home, secret) for secret in SECRETS} == story.results["found"]
    assert files_with(story.home, "See https://anna:")  # the turn itself is there: only its secrets are not


def test_a_rollback_to_the_old_branch_works_after_the_base_was_pruned(story: Story) -> None:
    rows = cli_json(story.home, "checkpoints", "list")["checkpoints"]
    assert [(row["number"], row["state"], row["active"]) for row in rows] == [
        (0, "kept", False), (1, "kept", False), (2, "kept", True),
    ]  # fmt: skip
    assert cli_json(story.home, "checkpoints", "verify") == {
        "checkpoints": 2, "hashed": 2, "pruned": 1, "sample": 1.0, "damaged": [], "ledger": [],
    }  # fmt: skip
    result = cli_json(story.home, "rollback", rows[1]["id"][:12])
    assert result["to"] == rows[1]["id"] and result["undone"] == ["u3"]


def test_a_running_service_prunes_checkpoints_that_are_neither_pinned_nor_active(story: Story) -> None:
    night, retry = (story.results[name]["updates"][0]["checkpoint"] for name in ("night", "retry"))
    assert story.results["pin"] == {"checkpoint": night, "number": 1, "pinned": True, "changed": True}
    assert [row["id"] for row in story.results["prune"]["pruned"]] == [
        story.results["status 0"]["checkpoint"]
    ]
    left = {path.stem for path in (story.home / "checkpoints").glob("*.json")}
    assert left == {night, retry} and story.results["prune"]["reachable"] == [night]


def test_a_diff_over_a_night_shows_what_the_night_reported_and_what_moved(
    story: Story, kept_home: Path, command: Command
) -> None:
    diff = command("--home", kept_home, "--json", "checkpoints", "diff", "base").result
    night = story.results["night"]
    rows = {row["name"]: row for row in diff["behaviours"]}
    assert rows.keys() == story.rates("night", "before").keys()
    for row in rows.values():
        assert (
            row["same_scenarios"]
            and row["current"]
            and row["before"]["trials"] == row["after"]["trials"] == 32
        )
        assert row["gained"] - row["lost"] == row["after"]["passed"] - row["before"]["passed"]
    assert rows["listen"]["gained"] >= 12
    assert diff["perplexity"] == pytest.approx(night["retention"])
    (step,) = diff["added"]
    assert len(step["pairs"]["new"]) + len(step["pairs"]["replay"]) == night["updates"][0]["pairs"]
    weights = diff["weights"]
    assert 0 < weights["whole"]["share"] <= 1 and {row["layer"] for row in weights["layers"]} == {
        0,
        1,
        2,
        3,
        None,
    }
    norms = [row["relative"] for row in weights["heads"]]
    assert norms == sorted(norms, reverse=True) and norms[0] > 0


# ---------------------------------------------------------------- forgetting


@pytest.mark.slow  # a night of its own
def test_a_source_is_forgotten_with_its_update_named_and_the_others_retrained_without_it(
    story: Story, kept_home: Path
) -> None:
    assert files_with(kept_home, "See https://anna:") and files_with(kept_home, "user 1")
    pairs = {
        row["id"]: row["source"] for row in cli_json(kept_home, "ledger", "pairs", "--limit", 999)["pairs"]
    }
    of_it = [pair for pair, source in pairs.items() if source == "user 1"]
    result = cli_json(kept_home, "forget", "user 1", "--retrain")
    (update,) = result["updates"]
    checkpoint = story.results["night"]["updates"][0]["checkpoint"]
    assert (update["id"], update["checkpoint"], update["built_on"]) == ("u1", checkpoint, None)
    assert 0 < len(of_it) <= update["pairs"] < len(pairs)
    assert result["removed"]["pairs"] == result["removed"]["update_pairs"] == update["pairs"]
    assert result["rolled_back"] and result["rollback_to"] == story.results["status 0"]["checkpoint"]
    (again,) = result["night"]["updates"]
    assert (again["id"], again["pairs"]) == ("u2", len(pairs) - update["pairs"])
    assert files_with(kept_home, "See https://anna:") == files_with(kept_home, "user 1") == []
    assert not cli_json(kept_home, "checkpoints", "verify")["damaged"]
    why = cli_json(kept_home, "ledger", "why", "u1")
    assert why["update"]["forgotten"] == update["pairs"] and len(why["pairs"]) == again["pairs"]
    assert [row["id"] for row in cli_json(kept_home, "checkpoints", "list")["checkpoints"]][:2] == [
        result["rollback_to"], checkpoint,
    ]  # fmt: skip


def test_without_a_rollback_the_weights_stay_and_the_commands_to_restore_them_are_given(
    story: Story, kept_home: Path, command: Command
) -> None:
    result = command("--home", kept_home, "--json", "forget", "user 2").result
    base = story.results["status 0"]["checkpoint"]
    assert result["commands"] == [f"nightschool rollback {base[:12]}", "nightschool night --retry"]
    assert status(kept_home).checkpoint == story.results["status 1"]["checkpoint"]
    copy = Path(shutil.copy(story.log, kept_home / "copy.jsonl"))
    ran = command("--home", kept_home, "--json", "ingest", copy)
    assert ran.result["conversations"] == {"new": 0, "known": 11} and ran.result["forgotten"] == 2
    assert command("--home", kept_home, "--json", *result["commands"][0].split()[1:]).result["undone"] == [
        "u1"
    ]


# ---------------------------------------------------------------- damage and gates


def damaged(home: Path, weights_sha256: str) -> Path:
    """Flip one bit in the middle of a checkpoint's weights."""
    (path,) = (home / "checkpoints" / "blobs").glob(f"{weights_sha256}.*")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    return path


def test_a_flipped_bit_is_found_and_a_rollback_to_it_refused_with_a_good_one_named(
    story: Story, kept_home: Path
) -> None:
    path = damaged(kept_home, story.results["status 0"]["weights_sha256"])
    verified = run_cli(kept_home, "checkpoints", "verify", "--json")
    assert verified.code == 12 and [fault["path"] for fault in verified.result["damaged"]] == [str(path)]
    message = run_cli(kept_home, "rollback", "--json").failed(12)
    assert "Nothing was changed" in message and story.results["status 1"]["checkpoint"][:12] in message
    assert cli_json(kept_home, "status")["checkpoint"] == story.results["status 1"]["checkpoint"]


def test_weights_that_are_damaged_are_never_served(story: Story, kept_home: Path) -> None:
    damaged(kept_home, story.results["status 1"]["weights_sha256"])
    ran = run_cli(kept_home, "ask", "Good morning.", "--json")
    assert ran.failed(12)


@pytest.mark.parametrize(
    "arguments, code, output",
    [
        (("rollback", "0" * 12), 2, "no checkpoint begins with"),
        (("rollback", ""), 2, "several checkpoints begin with"),
        (("rollback", "../../etc/passwd"), 2, "no checkpoint begins with"),
        (("ledger", "why", "u9"), 2, "no update or pair"),
        (("ledger", "why"), 2, "needs the id"),
        (("ledger", "nonsense"), 2, "there is no list"),
    ],
)
def test_an_unknown_id_is_refused_with_a_message(
    kept_home: Path, arguments: tuple[str, ...], code: int, output: str, command: Command
) -> None:
    assert output in command("--home", kept_home, *arguments, "--json").failed(code)
    assert command("--home", kept_home, "status", "--json").result["last_update"]["state"] == "kept"


def test_a_rollback_from_the_base_is_refused(kept_home: Path, command: Command) -> None:
    shown = command("--home", kept_home, "rollback")
    assert shown.code == 0 and "undone: u1" in shown.out
    assert "there is nothing before it" in command("--home", kept_home, "rollback", "--json").failed(13)


@pytest.mark.parametrize(
    "arguments, shown",
    [
        (
            ("status",),
            "last update     u1: kept (improved: direct, listen; nothing taught or guarded is worse)",
        ),
        (("checkpoints", "list"), "active"),
        (("checkpoints", "verify"), "2 checkpoints: 0 damaged files"),
        (("ledger", "why", "u1"), "update u1: keep"),
        (("behaviours", "list"), "push_back"),
        (("doctor",), "ok"),
        (("config",), '"per_night": 32'),
        (("ledger", "signals"), "correction"),
    ],
)
def test_without_json_the_same_facts_are_printed_as_text(
    kept_home: Path, arguments: tuple[str, ...], shown: str, command: Command
) -> None:
    ran = command("--home", kept_home, *arguments)
    assert ran.code == 0 and shown in ran.out, ran
