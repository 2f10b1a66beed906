"""A preview of logs that are no lines of JSON: databases, open or not, and texts."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loop.operations.results.home import Previewed
from loop.operations.results.preview import previewed

BOTH = [["Name a river.", "The Rhine."]]


def texts(report: Previewed) -> list[list[str]]:
    talks = [each for file in report.files for each in file.conversations]
    return [[turn.text for turn in each.turns] for each in talks]


def database(path: Path, tables: dict[str, list[dict[str, Any]]]) -> Path:
    """Write a database with these rows in its tables."""
    with closing(sqlite3.connect(path)) as connection:
        for name, rows in tables.items():
            connection.execute(f'CREATE TABLE "{name}" ({", ".join(rows[0])})')
            holes = ", ".join("?" * len(rows[0]))
            values = [tuple(row.values()) for row in rows]
            connection.executemany(f'INSERT INTO "{name}" VALUES ({holes})', values)
        connection.commit()
    return path


def chat(answer: str = "The Rhine.") -> dict[str, Any]:
    messages = {
        "a": {"id": "a", "parentId": None, "role": "user", "content": "Name a river."},
        "b": {"id": "b", "parentId": "a", "role": "assistant", "content": answer},
    }
    return {"history": {"currentId": "b", "messages": messages}}


WEBUI = {
    "chat": [{"id": "c1", "user_id": "ada", "title": "x", "chat": json.dumps(chat())}],
    "feedback": [
        {
            "id": "f1", "user_id": "ada", "type": "rating", "data": json.dumps({"rating": -1}),
            "meta": json.dumps({"chat_id": "c2", "message_id": "b"}),
            "snapshot": json.dumps({"chat": {"id": "c2", "chat": chat("Lake Garda.")}}),
        }
    ],
    "user": [{"id": "ada", "name": "Ada"}],
}  # fmt: skip
LLM = {
    "responses": [
        {"id": "2", "model": "m", "prompt": "Name a river.", "response": "The Rhine.", "system": None,
         "conversation_id": "c", "datetime_utc": "2026-01-01T10:00:00"}
    ]
}  # fmt: skip
CURSOR = {
    "cursorDiskKV": [
        {"key": "composerData:c", "value": b'{"composerId": "c", "fullConversationHeadersOnly": '
         b'[{"bubbleId": "a"}, {"bubbleId": "b"}]}'},
        {"key": "bubbleId:c:b", "value": b'{"type": 2, "text": "The Rhine."}'},
        {"key": "bubbleId:c:a", "value": b'{"type": 1, "text": "Name a river."}'},
        {"key": "other", "value": b"\xff"},
    ]
}  # fmt: skip
OPENCODE = {
    "session": [{"id": "s", "project_id": "p", "directory": "/"}],
    "message": [
        {"id": f"m{n}", "session_id": "s", "time_created": n, "data": json.dumps({"role": role})}
        for n, role in enumerate(("user", "assistant"))
    ],
    "part": [
        {
            "id": f"p{n}",
            "message_id": f"m{n}",
            "session_id": "s",
            "data": json.dumps({"type": "text", "text": t}),
        }
        for n, t in enumerate(BOTH[0])
    ],
}


@pytest.mark.parametrize(
    ("name", "tables", "format"),
    [
        ("logs.db", LLM, "llm"),
        ("state.vscdb", CURSOR, "cursor"),
        ("opencode.db", OPENCODE, "opencode"),
        ("webui.db", {"chat": WEBUI["chat"]}, "open-webui"),
    ],
)
def test_a_database_is_read_by_its_tables_and_not_changed(
    tmp_path: Path, name: str, tables: dict[str, list[dict[str, Any]]], format: str
) -> None:
    file = database(tmp_path / name, tables)
    before = file.read_bytes()
    file.chmod(0o400)
    report = previewed([tmp_path])
    assert texts(report) == BOTH and not report.set_aside
    assert (report.files[0].format, report.files[0].compression) == (format, "sqlite")
    assert file.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [name]


def test_a_feedback_of_open_webui_rates_the_message_that_it_is_about(tmp_path: Path) -> None:
    report = previewed([database(tmp_path / "webui.db", WEBUI)])
    assert texts(report) == [*BOTH, ["Name a river.", "Lake Garda."]]
    ratings = [each.turns[1].rating for file in report.files for each in file.conversations]
    assert ratings == [None, -1]


def test_a_database_that_its_program_has_open_is_read_to_its_last_row(tmp_path: Path) -> None:
    file = database(tmp_path / "logs.db", LLM)
    with closing(sqlite3.connect(file)) as program:
        program.execute("PRAGMA journal_mode=WAL")
        program.execute("UPDATE responses SET response = 'The Main.'")
        program.commit()
        beside = sorted(each.name for each in tmp_path.iterdir())
        assert "logs.db-wal" in beside
        assert texts(previewed([file])) == [["Name a river.", "The Main."]]
        assert sorted(each.name for each in tmp_path.iterdir()) == beside


def test_a_damaged_database_and_one_of_another_program_are_named(tmp_path: Path) -> None:
    other = database(tmp_path / "other.db", {"chat": [{"id": 1, "room": "x"}]})
    (line,) = previewed([other]).set_aside
    assert "without a table of conversations" in line.reason
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    (line,) = previewed([broken]).set_aside
    assert "cannot be read" in line.reason


def test_the_chat_history_of_aider_is_a_conversation_for_each_session(tmp_path: Path) -> None:
    session = (
        "# aider chat started at 2026-01-0{n} 10:00:00\n\n> Aider\n\n#### Name a {what}.\n\n{answer}\n\n"
    )
    text = session.format(n=1, what="river", answer="The Rhine.")
    text += session.format(n=2, what="lake", answer="Lake Garda.")
    (tmp_path / ".aider.chat.history.md").write_text(text)
    report = previewed([tmp_path])
    assert texts(report) == [*BOTH, ["Name a lake.", "Lake Garda."]] and report.files[0].format == "aider"


def test_every_line_of_a_large_log_with_ratings_is_read(tmp_path: Path) -> None:
    def line(n: int) -> str:
        answer = {"role": "assistant", "content": f"a{n}", "rating": n % 5 + 1}
        return json.dumps({"messages": [{"role": "user", "content": f"q{n}" + "x" * 9000}, answer]}) + "\n"

    (tmp_path / "a.jsonl").write_text("".join(map(line, range(60))))  # two chunks: the scale needs all lines
    report = previewed([tmp_path / "a.jsonl"])
    assert len(texts(report)) == 60 and not report.set_aside
