"""The documentation is held to the code: tables, keys, commands, modules, and every example."""

import dataclasses
import json
import re
import sqlite3
from pathlib import Path

import pytest
from typer.main import get_command

from agents.evaluator.judge import applies, judge
from corpus import errors
from corpus.behaviour import Behaviour, load_file
from corpus.conversation import Conversation, Turn
from corpus.formats.detect import recognise
from loop.cli.app import INTERRUPTED, app
from loop.config import Settings
from loop.night.flow import NIGHT_KINDS
from store import graph
from store.conversations import conversations
from store.ledger.db import Ledger, now
from store.ledger.records import (
    Checkpoint,
    Dream,
    Edge,
    Measurement,
    Node,
    Pair,
    Signal,
    Update,
    UpdatePair,
    identity,
    save,
)
from store.ledger.schema import metadata
from store.nights import history
from store.queue.outcome import Change, apply

ROOT = Path(__file__).parent.parent
PACKAGES = ("corpus", "store", "agents", "loop")


def page(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """The cells of every row of the tables in a text, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [index for index, cells in enumerate(found) if set("".join(cells)) <= set("-: ")]
    return [cells for index, cells in enumerate(found) if index not in rules and index + 1 not in rules]


def test_the_ledgers_page_has_every_table_and_column_and_no_other() -> None:
    told = {}
    for section in re.split(r"^### ", page("docs/ledger.md"), flags=re.MULTILINE)[1:]:
        name, _, text = section.partition("\n")
        told[name.strip()] = [cells[0] for cells in rows(text.partition("\n## ")[0])]
    assert told == {
        name: [column.name for column in table.columns] for name, table in metadata.tables.items()
    }


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    """A small ledger: a lesson, a refused signal, a proposal, and a night whose update was kept."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with ledger.writing() as connection:
        said = (
            ("user", "Please book the bench."),
            ("assistant", "Fine, for monday."),
            ("user", "You guessed."),
        )
        turns = tuple(Turn(role=role, text=text, line=1) for role, text in said)
        heard = Conversation(source="ada", format="openai", turns=turns)
        conversation_id = conversations.add(connection, heard, "/logs/a.jsonl").conversation_id
        history.add_base(connection, "base", "weights-0")
        night_id = history.begin_night(connection, seed=0, retry=False)

        def signal(name: str, state: str, behaviour: str | None) -> Signal:
            return Signal(
                id=name, kind="correction", conversation_id=conversation_id, position=2, source="ada",
                behaviour=behaviour, strength=1.0, state=state, reason="guessed", night_id=night_id, at=now(),
            )  # fmt: skip

        def node(kind: str, name: str, **body: object) -> Node:
            return Node(id=identity(kind, name), kind=kind, name=name, body=dict(body))

        episode, found = node("episode", "e"), node("behaviour", "proposed_x", proposed=True, do="say please")
        edge = Edge(kind="supports", tail_id=episode.id, head_id=found.id, signal_id="s1")
        graph.merge(
            connection, [episode, found, signal("s1", "new", "ask"), signal("s2", "refused", None), edge]
        )
        candidate = Checkpoint(
            id="next",
            parent_id="base",
            number=1,
            weights_sha256="weights-1",
            update_id="u1",
            state="candidate",
            at=now(),
        )
        save(connection, [candidate])
        messages = [{"role": "user", "content": "Please book the lamp."}]
        save(
            connection,
            [
                Dream(
                    id="d1", night_id=night_id, behaviour="ask", messages=messages, temperature=1.0, seed=1,
                    nodes=[episode.id], source="ada",
                ),
                Pair(
                    id="p1", behaviour="ask", messages=messages, chosen="For which day?", rejected="Sure, for friday.",
                    chosen_from="attempt:a1", rejected_from="attempt:a2", dream_id="d1", signal_id=None, source="ada",
                    trust=1.0, checkpoint_id="base", state="new", night_id=night_id,
                ),
                Update(
                    id="u1", night_id=night_id, objective="orpo", settings={}, seed=1, parent_id="base",
                    checkpoint_id="next", steps=1, state="trained", at=now(),
                ),
                UpdatePair(update_id="u1", pair_id="p1", replay=False),
                Measurement(weights_sha256="weights-0", behaviour="ask", seed=0, round=0, outcomes="0001"),
                Measurement(weights_sha256="weights-1", behaviour="ask", seed=0, round=0, outcomes="1111"),
            ],
        )  # fmt: skip
        update = {"id": "u1", "checkpoint_id": "next"}
        history.carry_out(connection, update=update, decision="keep", reasons=["improved: ask"])
        apply(connection, Change(table="nights", where={"id": night_id}, values={"targets": ["ask"]}))
    ledger.close()
    return tmp_path / "ledger.db"


def test_each_of_the_five_queries_answers_its_question(ledger_file: Path) -> None:
    queries = blocks(page("docs/ledger.md"), "sql")
    assert len(queries) == 5
    with sqlite3.connect(f"file:{ledger_file}?mode=ro", uri=True) as connection:
        answers = [connection.execute(query).fetchall() for query in queries]
    connection.close()
    assert answers[0] == [("ask", "learnt", 1, 1)]
    assert answers[1] == [("ada", "You guessed.", "guessed", "/logs/a.jsonl", 1)]
    assert answers[2] == [("u1", "kept", "ask", 25.0, 100.0)]
    assert answers[3] == [("ada", "ask", 1)]
    assert answers[4] == [("proposed_x", "say please", 1)]


@pytest.fixture
def example(tmp_path: Path) -> tuple[Behaviour, Behaviour]:
    """The behaviour that docs/behaviours.md shows."""
    (file,) = blocks(page("docs/behaviours.md"), "toml")
    (tmp_path / "promise.toml").write_text(file)
    return load_file(tmp_path / "promise.toml")


def test_the_example_of_a_behaviour_is_one_and_its_judge_does_what_the_page_says(
    example: tuple[Behaviour, Behaviour],
) -> None:
    for behaviour in example:
        for text in (*behaviour.examples, *behaviour.held_out):
            assert applies(behaviour, [{"role": "user", "content": text}]), text
    (line,) = blocks(page("docs/behaviours.md"), "jsonl")
    request, answer, correction = json.loads(line)["messages"]
    assert not judge(example[0], [request], answer["content"]).passed
    assert judge(example[0], [request], "I will book the bench for monday.").passed
    assert any(cue in correction["content"].lower() for cue in example[0].cues)


def test_the_behaviours_page_names_every_key() -> None:
    from corpus.behaviour import _JUDGE_KEYS, _KEYS

    text = page("docs/behaviours.md")
    for key in (*_KEYS, "counter", *_JUDGE_KEYS, *(key for keys in _JUDGE_KEYS.values() for key in keys)):
        assert re.search(rf"`\[?{key}\]?`", text), f"docs/behaviours.md does not say what {key} is"


def test_the_configurations_page_has_every_key_with_its_default_and_no_other() -> None:
    told = {
        cells[0].strip("`"): json.loads(cells[1].strip("`")) for cells in rows(page("docs/configuration.md"))
    }
    defaults: dict[str, object] = {}
    for section, field in Settings.model_fields.items():
        if field.default_factory is None:
            defaults[section] = field.default
            continue
        values = dataclasses.asdict(field.default_factory())  # type: ignore[call-arg,arg-type]
        defaults |= {f"{section}.{key}": value for key, value in values.items()}
    assert told == json.loads(json.dumps(defaults))


def test_the_architecture_names_every_module_and_every_kind_of_work() -> None:
    text = page("docs/architecture.md")
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py":
                place = path.relative_to(ROOT)
                said = (f"`{place}`", f"`{place.parent}/`")
                assert any(name in text for name in said) and path.name in text, f"{place} is not named"
    for kind in ("extract", *NIGHT_KINDS):
        assert re.search(rf"^    {kind}\s", text, re.MULTILINE), f"{kind} is not said"


def test_the_readme_names_every_exit_code_and_no_command_that_is_not_there() -> None:
    text = page("README.md")
    codes = {INTERRUPTED, 0} | {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.NightschoolError)
    }
    told = text.partition("### Exit codes")[2].partition("\n## ")[0]
    assert {int(cells[0]) for cells in rows(told)} == codes
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    ):
        for said in re.findall(r"(?:^    |`)nightschool ([a-z]+)", page(name), re.MULTILINE):
            assert said in commands, f"{name}: there is no command {said!r}"


def test_the_readmes_log_lines_are_in_the_formats_it_says() -> None:
    told = page("README.md").partition("### Logs")[2].partition("\n### ")[0]
    shown = {cells[0].strip("`"): cells[1].strip("`") for cells in rows(told)}
    for name, line in shown.items():
        if line.startswith("{"):
            assert recognise(json.loads(line.replace(", ...]", "]"))) == name


def test_every_link_between_the_pages_leads_somewhere() -> None:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_licence_is_the_one_that_the_package_declares() -> None:
    assert "Apache License" in page("LICENSE") and 'license = "Apache-2.0"' in page("pyproject.toml")
