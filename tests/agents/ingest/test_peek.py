"""Reading a log file without an ingest."""

import json
from pathlib import Path

import pytest

from agents.ingest.peek import conversations_in
from corpus.conversation import Conversation
from corpus.errors import LogRefused

HERE = Path(__file__).parents[3] / "corpus" / "conversations"


def line(*texts: str) -> str:
    roles = ("user", "assistant")
    return json.dumps({"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]})


def texts(conversations: list[Conversation]) -> list[list[str]]:
    return [[turn.text for turn in conversation.turns] for conversation in conversations]


def test_all_conversations_of_a_file_are_returned_in_order_even_without_a_last_newline(
    tmp_path: Path,
) -> None:
    (tmp_path / "log.jsonl").write_text(f"{line('Hello.', 'Good day.')}\n\nnonsense\n{line('Again.')}")
    assert texts(conversations_in(tmp_path / "log.jsonl")) == [["Hello.", "Good day."], ["Again."]]
    (tmp_path / "log.json").write_text(f"[{line('Hello.')},\n{line('Again.')}]")
    assert texts(conversations_in(tmp_path / "log.json")) == [["Hello."], ["Again."]]


def test_turns_that_arrive_one_by_one_are_one_conversation(tmp_path: Path) -> None:
    lines = [
        {"type": kind, "sessionId": "s1", "uuid": f"u{number}", "message": {"role": kind, "content": text}}
        for number, (kind, text) in enumerate(
            (("user", "Hello."), ("assistant", "Good day."), ("user", "Bye."))
        )
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert texts(conversations_in(tmp_path / "log.jsonl")) == [["Hello.", "Good day.", "Bye."]]


def test_secrets_are_scrubbed_as_in_an_ingest(tmp_path: Path) -> None:
    secret = "sk-ant-" + "a1B2" * 12
    (tmp_path / "log.jsonl").write_text(line(f"My key is {secret}."))
    assert secret not in texts(conversations_in(tmp_path / "log.jsonl"))[0][0]


def test_all_bundled_conversations_are_returned() -> None:
    for path in sorted(HERE.glob("*.jsonl")):
        assert len(conversations_in(path)) == len(path.read_text().splitlines())


@pytest.mark.parametrize("content", ["", "nonsense\n", '{"a": 1}\n', "[]", '{"messages": []}\n'])
def test_a_file_without_a_conversation_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(LogRefused, match=r"log\.jsonl"):
        conversations_in(tmp_path / "log.jsonl")
    with pytest.raises(LogRefused, match="nowhere"):
        conversations_in(tmp_path / "nowhere.jsonl")
    with pytest.raises(LogRefused, match=str(tmp_path)):
        conversations_in(tmp_path)
