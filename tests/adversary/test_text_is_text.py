"""Text from outside is text: nothing in it acts on a terminal, is markup, or fakes a row."""

import dataclasses
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import small
from rich.cells import cell_len
from rich.table import Table
from small import Command

from corpus.text import json_line, visible
from loop.cli.show import checkpoints as show_checkpoints
from loop.cli.show import console, diff, night, readout
from loop.cli.show import home as show_home
from loop.cli.show import ledger as show_ledger
from loop.cli.show.console import Screen, cells, set_up_logs
from loop.operations.results.home import StatusReport

HOSTILE = (
    "[/x] and [red]red[/red] and [link=https://evil.example]link[/link] :smile:",
    "\x1b[2J\x1b[31mcleared\x1b]0;title\x07",
    "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\u202eevil\u202c \u2066isolate\u2069 \u200bzero\ufeff",
    "a\nFAKE row\r\nFAKE again\rFAKE \x0b\x0cFAKE\u2028FAKE\u2029FAKE",
    "\x9b31mC1\x90\x9d \x7f\x08\x08back \x00nul",
    "wide 漢字漢字漢字漢字漢字 e\u0301\u0301\u0301 👩\u200d👩\u200d👧",
    "{0} {name!r} %s %(x)s $(id) `id` ; rm -rf /",
)
ACTS = {"\x1b", "\x9b", "\x9d", "\x90", "\x07", "\x08", "\x7f", "\r", "\x0b", "\x0c", "\u202e", "\u2066"} | {
    "\u200b",
    "\ufeff",
    "\u2028",
    "\u2029",
    "\x00",
}


def assert_is_text(printed: str) -> None:
    """Check that nothing in an output acts on a terminal, and that no line begins as a text from outside."""
    assert not ACTS & set(printed), ascii(printed)
    assert all(letter == "\n" or letter.isprintable() for letter in printed), ascii(printed)
    assert not [line for line in printed.split("\n") if line.startswith("FAKE")], ascii(printed)


@pytest.fixture(scope="module")
def hostile_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a home whose ledger has hostile text wherever a log can put it."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    logs = home.with_name("logs")
    logs.mkdir()
    for number, text in enumerate(HOSTILE):
        messages = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": text},
            {"role": "user", "content": f"No, that is wrong. {text}"},
            {"role": "assistant", "content": text},
        ]
        line = json.dumps({"user": text, "session": text, "messages": messages})
        name = text.replace("/", "_").replace("\0", "")[:60]
        (logs / f"{number}{name}.jsonl").write_text(f"{line}\nnot JSON {text}\n", errors="replace")
    small.fresh_home(home)
    assert small.run_cli(home, "ingest", logs).code == 3
    yield home


COMMANDS = (
    ("status",),
    *(("ledger", what) for what in ("conversations", "updates", "pairs", "dreams", "signals", "events")),
    ("checkpoints", "list"),
    ("checkpoints", "show", "active"),
    ("checkpoints", "verify"),
    ("behaviours", "list"),
    ("doctor",),
    ("config",),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_lets_a_stored_text_act(
    hostile_home: Path, command: Command, words: tuple[str, ...]
) -> None:
    ran = command("--home", hostile_home, *words)
    assert ran.code in (0, 1) and "Traceback" not in ran.err
    assert_is_text(ran.out)
    assert_is_text(ran.err)
    as_json = command("--home", hostile_home, "--json", *words)
    assert_is_text(as_json.out)
    assert as_json.result


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_argument_acts_when_it_is_named_in_an_answer(
    hostile_home: Path, command: Command, tmp_path: Path, text: str
) -> None:
    file = tmp_path / f"{text.replace('/', '_').replace(chr(0), '')[:60]}.toml"
    file.write_text("not a behaviour")
    for words in (
        ("forget", "--dry-run", text),
        ("forget", "--dry-run", "nobody" + text),
        ("ingest", tmp_path / "none" / text.replace("\0", "")),
        ("behaviours", "validate", file),
        ("checkpoints", "show", text),
        ("ledger", "why", text),
        ("ledger", text),
        (text,),
        ("status", f"--{text}"),
    ):
        ran = command("--home", hostile_home, *words)
        assert "Traceback" not in ran.err
        assert_is_text(ran.out)
        assert_is_text(ran.err)


def made(kind: Any, text: str) -> Any:
    """Return a value of this type in which every string is the text."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is str or kind is Any or kind is object:
        return text
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{field.name: made(hints[field.name], text) for field in dataclasses.fields(kind)})
    if origin in (list, tuple) and arguments:
        return (origin or list)([made(arguments[0], text)])
    if origin is dict:
        return {made(arguments[0], text): made(arguments[1], text)}
    if arguments:  # a union, or something annotated: the first that is not None
        return made(next(part for part in arguments if part is not type(None)), text)
    return {bool: True, int: 1, float: 1.0}.get(kind, text)


SHOWN = [
    show_home.status,
    show_home.doctor,
    show_home.behaviours,
    show_home.made,
    show_ledger.ingested,
    show_ledger.why,
    night.night,
    night.dry_run,
    night.cancelled,
    show_checkpoints.listed,
    show_checkpoints.pruned,
    show_checkpoints.verified,
    show_checkpoints.rolled_back,
    show_checkpoints.exported,
    show_checkpoints.recovered,
    readout.predictions,
    diff.shown,
]


@pytest.mark.parametrize("show", SHOWN, ids=lambda show: f"{show.__module__}.{show.__name__}")
def test_no_report_lets_a_text_act(show: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (kind,) = [hint for name, hint in get_type_hints(show).items() if name != "return"]
    for text in HOSTILE:
        try:
            value = made(kind, text)
        except (TypeError, ValueError):
            continue
        try:
            show(value)
        except (KeyError, ValueError, IndexError):  # a text in the place of a key or a date of our own
            pass
        printed = capsys.readouterr()
        assert_is_text(printed.out)
        assert_is_text(printed.err)


def test_the_status_of_a_hostile_home_has_every_text_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_home.status(made(StatusReport, HOSTILE[1]))
    printed = capsys.readouterr().out
    assert "\\x1b[2J" in printed and printed.count("\n") >= 9
    assert_is_text(printed)


def test_markup_in_a_table_is_shown_and_columns_stay_in_line() -> None:
    stream = io.StringIO()
    screen = Screen(file=stream, width=100, markup=False, emoji=False, highlight=False)
    table = Table("one", "two")
    for text in HOSTILE:
        table.add_row(text, "x")
    screen.print(table)
    lines = stream.getvalue().splitlines()
    assert "[/x]" in lines[3] and len({cell_len(line) for line in lines}) == 1


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_cell_has_its_width_and_json_its_text(text: str) -> None:
    assert cell_len(cells(text, 12)) == 12
    assert json.loads(json_line({text: [text]})) == {text: [text]}
    assert_is_text(json_line({text: [text]}))


def test_ordinary_text_of_any_language_stays_as_it_is() -> None:
    for text in ("naïve café", "漢字 かな", "עברית", "e\u0301", "👍", "a  b"):
        assert visible(text) == text
    assert visible("a\nb\tc\\d", keep="\n") == "a\nb\\tc\\d"


def test_a_log_line_does_not_act(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs()
    for text in HOSTILE:
        console.structlog.get_logger().warning(text, reason=text)
    assert_is_text(capsys.readouterr().err)
    logging.getLogger("asyncio").setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    "redirection", ["", ">&- 2>&-", *(pytest.param(one, marks=pytest.mark.slow) for one in (">&-", "2>&-"))]
)
def test_a_closed_or_ascii_output_ends_no_command_in_a_traceback(
    hostile_home: Path, redirection: str
) -> None:
    command = f'"{small.NIGHTSCHOOL}" --home "{hostile_home}" ledger conversations {redirection}'
    environment = {**small.environment(), "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    ran = subprocess.run(["sh", "-c", command], capture_output=True, env=environment, check=False)
    assert ran.returncode == 0 and b"Traceback" not in ran.stderr, ran
    assert os.path.exists(hostile_home) and sys.stdout is not None
