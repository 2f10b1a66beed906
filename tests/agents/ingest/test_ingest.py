"""Logs read into a real ledger: resumed, growing, rotated, and with the same result however they arrive."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ingesting import ingest_path
from sqlalchemy import select

from agents.ingest.read import BATCH_LINES, read_log
from corpus.errors import UsageError
from store.ledger import schema
from store.ledger.db import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def line(*texts: str, user: str = "ada") -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return json.dumps({"messages": messages, "user": user}) + "\n"


def record(session: str, number: int, text: str) -> str:
    content = {
        "type": "user",
        "sessionId": session,
        "uuid": f"{session}-{number}",
        "message": {"content": text},
    }
    return json.dumps(content) + "\n"


def rows(ledger: Ledger, table: str, *columns: str) -> list[tuple[Any, ...]]:
    chosen = [schema.metadata.tables[table].c[name] for name in columns]
    with ledger.reading() as connection:
        return [tuple(row) for row in connection.execute(select(*chosen).order_by(*chosen))]


def stored_turns(ledger: Ledger) -> list[tuple[Any, ...]]:
    return rows(ledger, "turns", "conversation_id", "position", "text", "line", "path")


def restarts(ledger: Ledger) -> list[str]:
    return [body["why"] for kind, body in rows(ledger, "events", "kind", "body") if kind == "log_begun_again"]


def test_a_folder_is_every_log_below_it_in_order(ledger: Ledger, logs: Path) -> None:
    (logs / "deep").mkdir()
    (logs / "b.jsonl").write_text(line("x", "y"))
    (logs / "deep" / "a.json").write_text(json.dumps([{"conversations": [{"from": "human", "value": "z"}]}]))
    (logs / "notes.txt").write_text("not a log")
    report = ingest_path(ledger, logs).as_json()
    assert report == {
        "files": [
            {"path": str(logs / "b.jsonl"), "format": "openai", "encoding": "utf-8", "compression": None},
            {
                "path": str(logs / "deep" / "a.json"),
                "format": "sharegpt",
                "encoding": "utf-8",
                "compression": None,
            },
        ],
        "conversations": {"new": 2, "known": 0},
        "turns": 3,
        "forgotten": 0,
        "set_aside": [],
        "waiting": [],
        "skipped": [
            {
                "path": str(logs / "notes.txt"),
                "reason": "its name is not that of a log: give the file itself to read it",
            }
        ],
    }


def test_the_same_file_again_adds_nothing_and_counts_as_known(ledger: Ledger, logs: Path) -> None:
    (logs / "a.jsonl").write_text(line("x") + line("y") + line("x"))
    first, again = ingest_path(ledger, logs), ingest_path(ledger, logs)
    assert (first.new, first.known, first.turns) == (2, 1, 2)
    assert (again.new, again.known, again.turns) == (0, 2, 0)


def test_a_copy_of_a_log_is_known(ledger: Ledger, logs: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (logs / name).write_text(line("x", user="") + line("y"))
    report = ingest_path(ledger, logs)
    assert (report.new, report.known) == (2, 2)


def test_a_bad_line_is_quarantined_with_its_reason_and_the_others_are_read(
    ledger: Ledger, logs: Path
) -> None:
    file = logs / "a.jsonl"
    file.write_text(line("x") + '{"token": "hunter2hunter2"\n' + "\n" + '{"messages": 3}\n' + line("y"))
    report = ingest_path(ledger, file)
    assert report.new == 2 and report.partial
    assert [(bad.line, bad.path) for bad in report.quarantined] == [(2, str(file)), (4, str(file))]
    assert [row[0] for row in rows(ledger, "set_aside_lines", "line")] == [2, 4]
    assert "hunter2" not in repr(report)


def test_by_hand_a_last_line_counts_although_no_newline_ends_it(ledger: Ledger, logs: Path) -> None:
    file = logs / "a.jsonl"
    file.write_text(line("x") + line("y").rstrip("\n"))
    report = ingest_path(ledger, file)
    assert (report.new, report.waiting, report.partial) == (2, (), False)
    with file.open("a") as log:
        log.write("\n" + line("z"))
    report = ingest_path(ledger, file)
    assert (report.new, report.known, restarts(ledger)) == (1, 2, [])


def test_a_last_line_that_is_cut_off_is_named_and_read_once_it_is_whole(ledger: Ledger, logs: Path) -> None:
    file = logs / "a.jsonl"
    file.write_text(line("x") + line("y")[:20])
    report = ingest_path(ledger, file)
    assert (report.new, report.waiting) == (1, (str(file),))
    assert "cut off" in report.quarantined[0].reason
    assert rows(ledger, "set_aside_lines", "line") == []
    with file.open("a") as log:
        log.write(line("y")[20:])
    report = ingest_path(ledger, file)
    assert (report.new, report.known, report.waiting) == (1, 1, ())


def test_bytes_appended_in_any_pieces_give_the_same_ledger_as_all_at_once(tmp_path: Path, logs: Path) -> None:
    openai = "".join(line(*[f"{n}{c}" for c in "abcd"[: 1 + n % 4]]) for n in range(12)) + line("0a", "more")
    claude = "".join(record(f"s{n % 2}", n, f"é{n}") for n in range(12)) + '{"type": "summary"}\nbroken\n'
    for name, content in (("openai", openai.encode()), ("claude", claude.encode())):
        outcomes = []
        for round in range(5):
            draw, file = random.Random(round), logs / "a.jsonl"
            cuts = sorted(draw.sample(range(1, len(content)), 6)) if round else []
            ledger = Ledger(f"sqlite:///{tmp_path / f'{name}{round}.db'}")
            file.write_bytes(b"")
            for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
                with file.open("ab") as log:
                    log.write(content[start:end])
                ingest_path(ledger, file)
            aside = [row for row in rows(ledger, "set_aside_lines", "line", "reason") if row[0]]
            outcomes.append((stored_turns(ledger), aside, rows(ledger, "conversations", "id", "tail", "key")))
            ledger.close()
        assert all(outcome == outcomes[0] for outcome in outcomes)
        assert outcomes[0][0]


def test_a_rotated_log_is_read_from_its_beginning_without_duplicates(ledger: Ledger, logs: Path) -> None:
    file = logs / "a.jsonl"
    file.write_text(line("x") + line("y"))
    ingest_path(ledger, file)
    file.rename(logs / "a-1.jsonl")
    file.write_text(line("z") + line("x") + line("w"))
    report = ingest_path(ledger, logs)
    assert (report.new, len(stored_turns(ledger))) == (2, 4)
    assert restarts(ledger) == ["rotated"]


def test_a_truncated_log_is_read_from_its_beginning_once(ledger: Ledger, logs: Path) -> None:
    file = logs / "a.jsonl"
    file.write_text(line("x") + line("y"))
    ingest_path(ledger, file)
    with file.open("r+") as log:
        log.truncate(0)
    for _ in range(2):
        assert ingest_path(ledger, file).turns == 0
    with file.open("r+") as log:
        log.write(line("z"))
    assert ingest_path(ledger, file).new == 1
    assert restarts(ledger) == ["truncated"]


def test_a_log_overwritten_in_place_is_noticed(ledger: Ledger, logs: Path) -> None:
    file = logs / "a.jsonl"
    file.write_text(line("x") + line("y"))
    ingest_path(ledger, file)
    with file.open("r+") as log:  # same inode, same first line, longer
        log.write(line("x") + line("a somewhat longer second line") + line("z"))
    assert ingest_path(ledger, file).new == 2
    assert restarts(ledger) == ["rewritten"]


def test_quarantined_lines_are_dropped_when_a_log_is_read_from_its_beginning(
    ledger: Ledger, logs: Path
) -> None:
    file = logs / "a.jsonl"
    file.write_text(line("x") + "broken\n")
    ingest_path(ledger, file)
    file.write_text(line("z"))
    ingest_path(ledger, file)
    assert rows(ledger, "set_aside_lines", "line") == []


def test_a_json_array_is_read_as_a_whole_and_again_when_it_has_grown(ledger: Ledger, logs: Path) -> None:
    content: list[Any] = [{"conversations": [{"from": "human", "value": "x"}]}, 3]
    file = logs / "a.json"
    file.write_text(json.dumps(content))
    report = ingest_path(ledger, file)
    assert (report.new, [bad.line for bad in report.quarantined], report.waiting) == (1, [2], ())
    assert (ingest_path(ledger, file).known, ingest_path(ledger, file).quarantined) == (1, ())
    content[0]["conversations"].append({"from": "gpt", "value": "y"})
    file.write_text(json.dumps([content[0]], indent=2))
    report = ingest_path(ledger, file)
    assert (report.new, report.known, report.turns) == (0, 1, 1)


def test_a_given_format_overrides_the_detected_one(ledger: Ledger, logs: Path) -> None:
    file = logs / "a.jsonl"
    file.write_text(line("x"))
    assert ingest_path(ledger, file).files[0].format == "openai"
    report = ingest_path(ledger, file, "trl")
    assert report.files[0].format == "trl" and [bad.line for bad in report.quarantined] == [1]
    with pytest.raises(UsageError, match="trl"):
        ingest_path(ledger, file, "xml")


def test_a_reader_stopped_after_any_batch_resumes_there(tmp_path: Path, logs: Path) -> None:
    file = logs / "a.jsonl"
    lines = 3 * BATCH_LINES + 7
    file.write_text("".join(line(f"{n}") for n in range(lines)))
    for count in range(1, 4):
        url = f"sqlite:///{tmp_path / f'{count}.db'}"
        ledger = Ledger(url)
        batches = read_log(ledger, file)
        for _ in range(count):
            next(batches)
        batches.close()
        ledger.close()
        ledger = Ledger(url)
        assert len(stored_turns(ledger)) == count * BATCH_LINES
        assert ingest_path(ledger, file).new == lines - count * BATCH_LINES
        assert len({row[0] for row in stored_turns(ledger)}) == lines == len(stored_turns(ledger))
        ledger.close()


KILLED = """
import os, sys
from pathlib import Path
import anyio
from sqlalchemy import event
from agents.ingest import read
from store.ledger.db import Ledger

read.BATCH_LINES = 10
ledger = Ledger(sys.argv[1])
left = int(sys.argv[3])

@event.listens_for(ledger.engine, "commit")
def count(connection):
    global left
    left -= 1
    if left == 0:
        os._exit(9)

anyio.run(read.ingest_paths, ledger, [Path(sys.argv[2])])
"""


def test_a_process_killed_at_a_commit_loses_and_duplicates_nothing(tmp_path: Path, logs: Path) -> None:
    file = logs / "a.jsonl"
    file.write_text("".join(line(f"turn {n}") for n in range(35)))
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    for kill_at, expected in ((2, 10), (3, 30)):
        ended = subprocess.run([sys.executable, "-c", KILLED, url, str(file), str(kill_at)], check=False)
        assert ended.returncode == 9
        ledger = Ledger(url)
        assert len(stored_turns(ledger)) == expected  # the batch at whose commit it died is gone, whole
        ledger.close()
    ledger = Ledger(url)
    ingest_path(ledger, file)
    assert sorted(row[2] for row in stored_turns(ledger)) == sorted(f"turn {n}" for n in range(35))
    ledger.close()


def test_no_planted_secret_is_in_any_file_of_the_home(ledger: Ledger, tmp_path: Path, logs: Path) -> None:
    secret = "hunter2hunter2"
    folder = logs / f"password={secret}"
    folder.mkdir()
    (folder / "a.jsonl").write_text(
        line(f"my password is {secret}", f"postgres://bob:{secret}@db", user=f"token={secret}")
        + f'{{"messages": [{{"role": "password={secret}", "content": "x"}}]}}\n'
        + f"password={secret}\n"
    )
    report = ingest_path(ledger, folder)
    assert (report.turns, len(report.quarantined)) == (2, 2) and secret not in json.dumps(report.as_json())
    for _ in ("open, with its write-ahead log", "closed"):
        for file in tmp_path.glob("ledger.db*"):
            assert secret.encode() not in file.read_bytes()
        ledger.close()


def test_a_file_whose_name_is_not_valid_text_is_read(ledger: Ledger, logs: Path) -> None:
    name = os.path.join(os.fsencode(logs), b"\xff.jsonl")
    with open(name, "w") as log:
        log.write(line("x"))
    assert json.dumps(ingest_path(ledger, logs).as_json()) and len(stored_turns(ledger)) == 1
