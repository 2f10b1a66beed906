"""The command line's contract: one JSON object, a meaningful exit code, never a traceback."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Command
from small import NIGHTSCHOOL, environment, run_cli

from store.home import Home, locked

GREETING = [{"role": "user", "content": "Good morning."}, {"role": "assistant", "content": "Hello."}]
LINE = json.dumps({"messages": GREETING}) + "\n"


@pytest.fixture(scope="module")
def fresh_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home by `init`, which no test changes."""
    place = tmp_path_factory.mktemp("fresh_home") / "home"
    ran = run_cli(place, "init", "--json")
    assert ran.code == 0 and ran.result["turns"] == 0, ran
    return place


@pytest.fixture
def home(fresh_home: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(fresh_home, tmp_path / "home"))


# ---------------------------------------------------------------- where the options stand


@pytest.mark.parametrize(
    "line",
    [
        "--home {home} --json checkpoints list",
        "checkpoints --home {home} list --json",
        "checkpoints list --json --home {home}",
        "--json checkpoints --home={home} list",
        "checkpoints list --home={home} --json",
    ],
)
def test_home_and_json_may_stand_anywhere(home: Path, line: str, command: Command) -> None:
    ran = command(*line.format(home=home).split())
    assert ran.code == 0 and [row["number"] for row in ran.result["checkpoints"]] == [0]


def test_arguments_after_two_dashes_are_not_options(home: Path, command: Command) -> None:
    ran = command("--home", home, "ingest", "--json", "--", "--home")
    assert "--home" in ran.failed(2)
    assert not command("--home", home, "ingest", "--", "--json").out


def test_the_variable_names_the_home(home: Path) -> None:
    plain = subprocess.run(
        [str(NIGHTSCHOOL), "--json", "status"],
        capture_output=True, text=True, env=environment(NIGHTSCHOOL_HOME=str(home)), check=True,
    )  # fmt: skip
    assert json.loads(plain.stdout)["turns"] == 0


def test_without_a_terminal_nothing_is_coloured(home: Path, command: Command) -> None:
    for arguments in (("status",), ("behaviours", "list"), ("checkpoints", "list"), ("doctor",)):
        assert "\x1b" not in command("--home", home, *arguments).out


# ---------------------------------------------------------------- exit codes


COMMANDS = (
    "run", "night", "ingest x", "status", "pause", "resume", "rollback", "forget x", "ask x",
    "ledger updates", "ledger why u1", "ledger conversations", "checkpoints list", "checkpoints verify",
    "behaviours list", "behaviours measure", "doctor", "config",
    "readout report", "readout show", "readout show x", "readout map --out x.svg",
)  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_without_a_home_says_how_to_make_one(
    tmp_path: Path, line: str, command: Command
) -> None:
    message = command("--home", tmp_path / "nowhere", "--json", *line.split()).failed(10)
    assert "nightschool init" in message and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "night --seed x",
        "night --seed 1.5",
        "night --seed -1",
        "night --seed 99999999999999999999",
        "night --nonsense",
        "night surplus",
        "behaviours measure --seed 99999999999999999999",
        "ask hello --steer listen",
        "ask hello --steer listen=nan",
        "readout sweep listen --strengths much",
        "ingest",
        "ingest --format nonsense {home}/config.toml",
        "ledger",
        "ledger nonsense",
        "ledger why",
        "ledger why nonsense",
        "ledger updates --limit x",
        "ledger updates --limit -1",
        "checkpoints",
        "checkpoints nonsense",
        "rollback nonsense",
        "forget",
        "forget a b",
        "forget nonsense",
        "rollback a b",
        "ask",
        "behaviours",
        "behaviours validate",
        "behaviours validate {home}/nowhere.toml",
        "behaviours validate {home}",
        "behaviours validate {home}/ledger.db",
        "model",
        "",
    ],
)
def test_a_usage_error_exits_with_2(home: Path, line: str, command: Command) -> None:
    assert command("--home", home, "--json", *line.format(home=home).split()).failed(2)


def test_a_home_held_by_another_process_refuses_a_second_service_with_11(
    home: Path, command: Command
) -> None:
    with locked(Home(home)):
        assert "stop it, or use it" in command("--home", home, "--json", "run").failed(11)
        assert command("--home", home, "--json", "status").result["service"] == "busy"


def test_a_rollback_without_a_target_exits_with_13(home: Path, command: Command) -> None:
    assert "checkpoint 0" in command("--home", home, "--json", "rollback").failed(13)


def test_a_pause_without_a_service_is_stored(home: Path, command: Command) -> None:
    assert command("--home", home, "--json", "pause").result == {"paused": True}
    assert command("--home", home, "--json", "status").result["next_update_reason"].startswith("paused")
    assert command("--home", home, "--json", "resume").result == {"paused": False}


def test_init_on_an_existing_home_changes_nothing(home: Path, command: Command) -> None:
    (home / "config.toml").write_text("seed = 4\n")
    before = command("--home", home, "--json", "status").result
    token = Home(home).token()
    assert command("--home", home, "--json", "init").result["checkpoint"] == before["checkpoint"]
    assert command("--home", home, "--json", "status").result == before and Home(home).token() == token
    assert (home / "config.toml").read_text() == "seed = 4\n"


# ---------------------------------------------------------------- what a user may give it


@pytest.mark.parametrize(
    "content, code",
    [
        (b"", 0),
        (b"\n\n", 0),
        (LINE.encode(), 0),
        (b"{not json\n" + LINE.encode(), 3),
        (b"\0\x01\x02" * 500, 3),
        (b"\xff\xfe" + LINE.encode("utf-16-le"), 0),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, 3),
        (b"[" * 20_000 + b"\n", 3),
        (b'{"messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n", 3),
        (b'{"messages": [{"role": "user", "content": "' + b"x" * 100_000 + b'"}]}\n', 0),
        (b'{"messages": "nonsense"}\n' + LINE.encode(), 3),
        (b"just words\nand more of them\n", 3),
        (b'{"messages": [{"role": "user", "content": "\\ud800 \\u0000"}]}\n', 0),
    ],
    ids=range(13),
)
def test_any_log_content_is_read_or_quarantined_with_its_place(
    home: Path, tmp_path: Path, content: bytes, code: int, command: Command
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    ran = command("--home", home, "--json", "ingest", path)
    assert ran.code == code and "Traceback" not in ran.err, ran
    aside = ran.result["set_aside"]
    assert bool(aside) == (code == 3) and all(line["path"] == str(path) and line["reason"] for line in aside)
    shown = command("--home", home, "ingest", path)
    assert shown.code in (0, 3) and "Traceback" not in shown.err


def test_a_missing_log_or_one_that_is_not_a_file_is_refused(
    home: Path, tmp_path: Path, command: Command
) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    for name in ("nowhere.jsonl", "empty", "pipe.jsonl", "loop.jsonl", "x" * 300, "a\nb"):
        assert command("--home", home, "--json", "ingest", tmp_path / name).failed(2)
    assert command("--home", home, "--json", "status").result["turns"] == 0


@pytest.mark.parametrize(
    "text, problem",
    [
        ("[schedul]\n", "schedul"),
        ("seed = 'x'\n", "seed"),
        ("[", "config.toml"),
        ("[verdict]\nmargin = 9\n", "margin"),
    ],
)
@pytest.mark.parametrize("line", ["config", "status", "pause", "run", "ingest x"])
def test_a_mistake_in_the_configuration_stops_every_start(
    home: Path, line: str, text: str, problem: str, command: Command
) -> None:
    (home / "config.toml").write_text(text)
    message = command("--home", home, "--json", *line.split()).failed(2)
    assert str(home / "config.toml") in message and problem in message


def test_doctor_reports_a_mistake_in_the_configuration(home: Path, command: Command) -> None:
    (home / "config.toml").write_text("[schedul]\n")
    ran = command("--home", home, "--json", "doctor")
    assert ran.code == 1
    (bad,) = [check for check in ran.result["checks"] if check["check"] == "configuration"]
    assert not bad["ok"] and "schedul" in bad["found"]


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////nowhere/at/all.db", "nonsense://x/y", "sqlite:////etc"]
)
def test_a_ledger_that_cannot_be_opened_is_reported_in_words(home: Path, url: str, command: Command) -> None:
    (home / "config.toml").write_text(f'database = "{url}"\n')
    ran = command("--home", home, "--json", "status")
    assert ran.code in (1, 2) and ran.failed(ran.code)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_not_a_ledger_is_reported_in_words(
    home: Path, content: bytes, command: Command
) -> None:
    for path in home.glob("ledger.db*"):
        path.unlink()
    (home / "ledger.db").write_bytes(content)
    for line in ("status", "ledger updates", "checkpoints list", "rollback"):
        ran = command("--home", home, "--json", *line.split())
        assert ran.code in (1, 2, 12) and ran.failed(ran.code), line


def test_a_home_without_its_ledger_is_reported_with_the_cure(home: Path, command: Command) -> None:
    for path in home.glob("ledger.db*"):
        path.unlink()
    assert "`nightschool recover`" in command("--home", home, "--json", "status").failed(2)
    assert "`nightschool recover`" in command("--home", home, "--json", "init").failed(12)
    assert command("--home", home, "recover").code == 0
    assert command("--home", home, "--json", "status").result["turns"] == 0


def test_a_ledger_of_a_newer_version_is_refused_with_12(home: Path, command: Command) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(home / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    assert "install the newer version" in command("--home", home, "--json", "status").failed(12)


def test_a_home_that_is_a_file_or_inside_one_is_reported_in_words(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "below"):
        assert command("--home", place, "--json", "status").failed(10)
        ran = command("--home", place, "--json", "init")
        assert ran.code in (1, 2) and ran.failed(ran.code)


@pytest.mark.parametrize(
    "name", ["token", "config.toml", "service.lock", "checkpoints", "ledger.db", "behaviours"]
)
def test_a_folder_in_place_of_a_file_or_the_reverse_is_reported_in_words(
    home: Path, name: str, command: Command
) -> None:
    path = home / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("a file")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    for line in ("status", "doctor", "checkpoints verify", "rollback", "pause", "behaviours list"):
        ran = command("--home", home, "--json", *line.split())
        assert isinstance(ran.result, dict) and "Traceback" not in ran.err, (line, ran)


@pytest.mark.parametrize(
    "old, new",
    [
        ('"listen"', '"Listen"'),
        ("[counter]", "[counte]"),
        ('check = "listen"', 'check = "x"'),
        ("name =", "name"),
    ],
)
def test_an_invalid_behaviour_file_is_refused_by_validate_and_by_every_start(
    home: Path, old: str, new: str, command: Command
) -> None:
    from corpus.behaviour import SHIPPED

    path = home / "behaviours" / "own.toml"
    path.write_text((SHIPPED / "listen.toml").read_text().replace(old, new, 1))
    for line in (f"behaviours validate {path}", "behaviours list", "pause"):
        assert str(path) in command("--home", home, "--json", *line.split()).failed(2)


def test_a_valid_behaviour_file_passes_validate(home: Path, command: Command) -> None:
    from corpus.behaviour import SHIPPED

    ran = command("--home", home, "--json", "behaviours", "validate", SHIPPED / "listen.toml")
    assert ran.result == {"valid": True, "behaviours": ["listen", "push_back"]}


def test_an_unknown_environment_variable_is_refused(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSCHOOL_SCHEDUL__IDLE", "1")
    assert "NIGHTSCHOOL_SCHEDUL__IDLE" in command("--home", home, "--json", "config").failed(2)


@pytest.mark.parametrize("what", ["auto_map", "pickle", "renamed", "nowhere"])
def test_a_model_that_would_run_code_is_never_accepted_into_a_home(
    tmp_path: Path, what: str, command: Command
) -> None:
    from corpus.recipe import MODEL_DIR

    model = Path(shutil.copytree(MODEL_DIR, tmp_path / "model"))
    if what == "auto_map":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    elif what == "pickle":
        (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        (model / "model.safetensors").unlink()
    elif what == "renamed":
        (model / "model.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 200)
    else:
        model = tmp_path / "nowhere"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(f'[model]\npath = "{model}"\n')
    ran = command("--home", tmp_path / "home", "--json", "init")
    assert ran.code in (2, 12) and ran.failed(ran.code)
    assert not list((tmp_path / "home" / "checkpoints").rglob("*.safetensors"))
