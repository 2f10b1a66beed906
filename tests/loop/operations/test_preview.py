"""A preview of logs: what an ingest would store, and the signals in it, without a home."""

import bz2
import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

import corpus
from corpus.formats.detect import NAMES
from loop.operations.results.home import PreviewConversation, Previewed
from loop.operations.results.preview import previewed

SAMPLES = Path(corpus.__file__).parent / "formats" / "samples"


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TALK = {"user": "ada", "messages": [message("user", "Name a river."), message("assistant", "The Rhine.")]}
OTHER = {"user": "bo", "messages": [message("user", "Name a lake."), message("assistant", "The Alps.")]}
LINES = "".join(json.dumps(each) + "\n" for each in (TALK, OTHER)).encode()


def shown(file: Path, content: bytes, **options: Any) -> Previewed:
    file.write_bytes(content)
    return previewed([file], **options)


def talks(report: Previewed) -> list[PreviewConversation]:
    return [each for file in report.files for each in file.conversations]


def texts(report: Previewed) -> list[list[str]]:
    return [[turn.text for turn in each.turns] for each in talks(report)]


BOTH = [["Name a river.", "The Rhine."], ["Name a lake.", "The Alps."]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES.rstrip()),
        ("a.json", json.dumps([TALK, OTHER], indent=2).encode()),
        ("a.json", json.dumps(TALK, indent=2).encode() + json.dumps(OTHER, indent=2).encode()),
        ("a.json", json.dumps({"object": "list", "data": [TALK, OTHER]}).encode()),
        ("a.json", json.dumps({"chats": [TALK, OTHER]}, indent=1).encode()),
        ("a.jsonl", LINES.replace(b"\n", b"\r")),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.jsonl", LINES.decode().encode("utf-16")),
        ("a.jsonl", LINES.decode().encode("utf-16-le")),
        ("a.jsonl", LINES.decode().encode("utf-16-be")),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.jsonl.bz2", bz2.compress(LINES)),
        ("a.jsonl.zst", zstandard.compress(LINES)),
    ],
)
def test_a_log_is_read_whatever_its_layout_encoding_or_packing(
    tmp_path: Path, name: str, content: bytes
) -> None:
    report = shown(tmp_path / name, content)
    assert texts(report) == BOTH
    assert [each.source for each in talks(report)] == ["ada", "bo"] and not report.set_aside


@pytest.mark.parametrize("letters", range(4))
def test_the_encoding_is_that_of_the_text_however_long_its_lines_are(tmp_path: Path, letters: int) -> None:
    line = json.dumps({"messages": [message("user", "é" + "x" * letters)]}, ensure_ascii=False)
    report = shown(tmp_path / "a.jsonl", line.encode("utf-16"))
    assert texts(report) == [["é" + "x" * letters]] and report.files[0].encoding == "utf-16-le"


def test_letters_of_latin_1_are_read_and_the_encoding_is_named(tmp_path: Path) -> None:
    umlaut = {"messages": [message("user", "Grüße"), message("assistant", "Schön.")]}
    report = shown(tmp_path / "a.jsonl", json.dumps(umlaut, ensure_ascii=False).encode("latin-1"))
    assert texts(report) == [["Grüße", "Schön."]] and report.files[0].encoding == "windows-1252"


def test_an_archive_gives_each_log_in_it_and_names_the_rest(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("conversations.json", json.dumps([TALK, OTHER]))
        archive.writestr("picture.png", b"x")
    report = previewed([tmp_path / "export.zip"])
    assert texts(report) == BOTH and report.files[0].compression == "zip"
    assert [Path(file.path).name for file in report.skipped] == ["picture.png"]


def test_damaged_packings_are_named(tmp_path: Path) -> None:
    for name, content in (("a.gz", gzip.compress(LINES)[:40]), ("a.zip", b"PK\x03\x04 broken")):
        (line,) = shown(tmp_path / name, content).set_aside
        assert "cannot be unpacked" in line.reason


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_of_every_format_is_read_as_that_format_without_a_fault(tmp_path: Path, name: str) -> None:
    report = shown(tmp_path / "a.jsonl", (SAMPLES / f"{name}.jsonl").read_bytes())
    assert report.files[0].format == name and not report.set_aside
    for talk in talks(report):
        assert {"user", "assistant"} <= {turn.role for turn in talk.turns}
        assert talk.turns[0].text.startswith("Name a")


def test_stars_are_rated_by_the_scale_of_the_whole_file(tmp_path: Path) -> None:
    content = "".join(
        json.dumps({"messages": [message("user", f"q{n}"), message("assistant", f"a{n}", rating=n)]}) + "\n"
        for n in (1, 3, 5)
    ).encode()
    ratings = [each.turns[1].rating for each in talks(shown(tmp_path / "a.jsonl", content))]
    assert ratings == [-1, 0, 1]
    alone = shown(tmp_path / "b.jsonl", content.splitlines()[0])
    assert talks(alone)[0].turns[1].rating is None and "--ratings" in alone.set_aside[0].reason
    asked = shown(tmp_path / "c.jsonl", content.splitlines()[0], ratings="0..1")
    assert talks(asked)[0].turns[1].rating == 1


def test_an_answer_in_an_unknown_shape_sets_its_question_aside_with_the_keys(tmp_path: Path) -> None:
    line = {"request": {"messages": [message("user", "q")]}, "response": {"strange": {"shape": 1}}}
    report = shown(tmp_path / "a.jsonl", json.dumps(line).encode())
    assert not talks(report) and "its keys: strange" in report.set_aside[0].reason


def test_what_programs_put_into_a_users_turn_is_nobodys_words(tmp_path: Path) -> None:
    for said, left in (
        ("<system-reminder>No, wrong.</system-reminder>Go on.", "Go on."),
        ("<ide_selection>wrong</ide_selection>\nWhy?", "Why?"),
        ("<command-name>/fix</command-name><command-args>only the tests</command-args>", "only the tests"),
        ('{"type": "user_message", "message": "Hello.", "time": "x"}', "Hello."),
    ):
        line = {"messages": [message("user", said), message("assistant", "<think>hm</think>Yes.")]}
        assert texts(shown(tmp_path / "a.jsonl", json.dumps(line).encode())) == [[left, "Yes."]]


def test_a_signal_names_its_turn_and_the_answer_that_it_is_about(tmp_path: Path) -> None:
    line = {
        "messages": [*TALK["messages"], message("user", "No, that is wrong."), message("assistant", "Oh.")]
    }
    (talk,) = talks(shown(tmp_path / "a.jsonl", json.dumps(line).encode()))
    (signal,) = talk.signals
    assert (signal.kind, signal.position, signal.about) == ("correction", 2, 1) and signal.because


def test_a_complaint_after_a_tools_result_is_about_the_words_and_not_about_the_call(tmp_path: Path) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "search", "input": {"query": "rivers of the north"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "nothing"}
    spoken = [
        message("user", "Name a river of the north."),
        message("assistant", [{"type": "text", "text": "A moment."}, call]),
        message("user", [result]),
        message("assistant", "I know of none."),
        message("user", "wrong, you looked in one place only"),
    ]
    (talk,) = talks(shown(tmp_path / "log.jsonl", json.dumps({"messages": spoken}).encode() + b"\n"))
    (signal,) = talk.signals
    assert (signal.kind, talk.turns[signal.about].text) == ("correction", "I know of none.")


def test_a_chat_with_an_answer_that_was_changed_has_the_models_own_one_beside_it(tmp_path: Path) -> None:
    nodes = {
        "a": message("user", "Name a river.", id="a", parentId=None, childrenIds=["b", "c"]),
        "b": message("assistant", "A lake.", id="b", parentId="a", childrenIds=[], annotation={"rating": -1}),
        "c": message("assistant", "The Rhine.", id="c", parentId="a", originalContent="The Rhein."),
    }
    chat = {"history": {"currentId": "c", "messages": nodes}}
    report = shown(tmp_path / "a.json", json.dumps([{"chat": chat}]).encode())
    turns = [[(turn.text, turn.rating, turn.edited) for turn in each.turns[1:]] for each in talks(report)]
    assert turns == [
        [("The Rhine.", None, None)],
        [("The Rhein.", None, "The Rhine.")],
        [("A lake.", -1.0, "The Rhine.")],
    ]
