"""The documentation is held to the program: commands, keys, tables, routes, pointers and examples."""

import ast
import json
import re
import shlex
import signal
import sqlite3
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agents.evaluator.judge import applies, judge
from corpus import errors
from corpus.behaviour import Behaviour, load_file
from corpus.conversation import Conversation, Turn
from corpus.formats.detect import recognise
from docs import generate
from loop.cli.app import INTERRUPTED, main
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
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
BEHAVIOURS = "docs/how-to/own-behaviours.md"


def page(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of the tables in a text, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cut = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [index for index, cells in enumerate(cut) if set("".join(cells)) <= set("-: ")]
    return [cells for index, cells in enumerate(cut) if index not in rules and index + 1 not in rules]


def test_the_ledgers_page_has_every_table_and_column_and_no_other() -> None:
    documented = {}
    for section in re.split(r"^### ", page("docs/reference/ledger.md"), flags=re.MULTILINE)[1:]:
        name, _, text = section.partition("\n")
        documented[name.strip()] = [cells[0] for cells in rows(text.partition("\n## ")[0])]
    assert documented == {
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
        update = Update(
            id="u1", night_id=night_id, objective="orpo", settings={}, seed=1, parent_id="base",
            checkpoint_id="next", steps=1, state="trained", at=now(),
        )  # fmt: skip
        save(
            connection,
            [
                Dream(
                    id="d1", night_id=night_id, behaviour="ask", messages=messages, temperature=1.0, seed=1,
                    nodes=[episode.id], source="ada",
                ),
                Pair(
                    id="p1", behaviour="ask", messages=messages, chosen="For which day?",
                    rejected="Sure, for friday.", chosen_from="attempt:a1", rejected_from="attempt:a2",
                    dream_id="d1", signal_id=None, source="ada", trust=1.0, checkpoint_id="base",
                    state="new", night_id=night_id,
                ),
                update,
                UpdatePair(update_id="u1", pair_id="p1", replay=False),
                Measurement(weights_sha256="weights-0", behaviour="ask", seed=0, round=0, outcomes="0001"),
                Measurement(weights_sha256="weights-1", behaviour="ask", seed=0, round=0, outcomes="1111"),
            ],
        )  # fmt: skip
        history.carry_out(connection, update=update, decision="keep", reasons=["improved: ask"])
        apply(connection, Change(table="nights", where={"id": night_id}, values={"targets": ["ask"]}))
    ledger.close()
    return tmp_path / "ledger.db"


def test_each_of_the_five_queries_answers_its_question(ledger_file: Path) -> None:
    queries = blocks(page("docs/reference/ledger.md"), "sql")
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
    """The behaviour that the page about one's own behaviours shows."""
    (file,) = blocks(page(BEHAVIOURS), "toml")
    (tmp_path / "promise.toml").write_text(file)
    return load_file(tmp_path / "promise.toml")


def test_the_example_of_a_behaviour_is_one_and_its_judge_does_what_the_page_says(
    example: tuple[Behaviour, Behaviour],
) -> None:
    for behaviour in example:
        for text in (*behaviour.examples, *behaviour.held_out):
            assert applies(behaviour, [{"role": "user", "content": text}]), text
    (line,) = blocks(page(BEHAVIOURS), "jsonl")
    request, answer, correction = json.loads(line)["messages"]
    assert not judge(example[0], [request], answer["content"]).passed
    assert judge(example[0], [request], "I will book the bench for monday.").passed
    assert any(cue in correction["content"].lower() for cue in example[0].cues)


def test_the_page_about_behaviours_names_every_key() -> None:
    from corpus.behaviour import _JUDGE_KEYS, _KEYS

    text = page(BEHAVIOURS)
    for key in (*_KEYS, "counter", *_JUDGE_KEYS, *(key for keys in _JUDGE_KEYS.values() for key in keys)):
        assert re.search(rf"`\[?{key}\]?`", text), f"{BEHAVIOURS} does not explain {key}"


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_what_the_program_says_now(name: str) -> None:
    assert page(f"docs/reference/{name}") == generate.PAGES[name](), f"{name} is out of date: run `make docs`"


def test_every_configuration_key_that_a_page_names_exists() -> None:
    keys = {cells[0].strip("`") for cells in rows(page("docs/reference/configuration.md"))}
    sections = {key.partition(".")[0] for key in keys if "." in key}
    for path in PAGES:
        for name in re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_]+)`", path.read_text()):
            table, _, column = name.partition(".")
            of_ledger = table in metadata.tables and column in metadata.tables[table].columns
            assert name in keys or of_ledger, f"{path.name}: {name}"
    assert sections <= set(Settings.model_fields)


def test_the_page_about_a_night_names_every_kind_of_work() -> None:
    text = page("docs/explanation/a-night.md")
    for kind in ("extract", *NIGHT_KINDS):
        assert re.search(rf"^    {kind}\s", text, re.MULTILINE), f"{kind} is missing"


def test_the_architecture_has_a_line_for_every_folder_and_no_other() -> None:
    tree = page("docs/explanation/architecture.md").partition("```tree\n")[2].partition("```")[0]
    shown, path = set(), []
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        assert name.endswith("/"), f"the tree has folders only, and here {line!r}"
        path[depth:] = [name.rstrip("/")]
        shown.add("/".join(path))
    folders = {
        str(place.parent.relative_to(ROOT))
        for name in PACKAGES
        for place in (ROOT / name).rglob("__init__.py")
    }
    assert shown == folders


def test_the_exit_codes_are_all_there() -> None:
    codes = {INTERRUPTED, 0} | {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.NightschoolError)
    }
    assert {int(cells[0]) for cells in rows(page("docs/reference/exit-codes.md"))} == codes


def test_the_log_lines_are_in_the_formats_that_the_page_says() -> None:
    sections = page("docs/reference/logs.md").partition("## Samples")[2].split("\n### ")[1:]
    assert len(sections) > 10
    for section in sections:
        name, _, lines = section.partition("\n")
        for line in filter(None, map(str.strip, lines.splitlines())):
            assert recognise(json.loads(line)) == name


ROUTE = r"""["'](/(?:v1|do|status|receipts|train|checkpoint|rollback)[^"' ]*)["']"""


def test_the_page_about_http_has_every_route() -> None:
    text = page("docs/reference/http.md")
    for source in ("loop/api", "agents/model/vllm/routes", "agents/model/vllm/readout"):
        for path in (ROOT / source).glob("*.py"):
            for route in re.findall(ROUTE, path.read_text()):
                bare = re.sub(r"\{[^}]*\}.*", "", route).rstrip("/")
                assert f"{bare}" in text, f"docs/reference/http.md does not name {route} of {path.name}"


# Commands


def shell_lines(text: str) -> Iterator[str]:
    """Yield the lines of a page's code blocks, with lines that a backslash continues as one."""
    fenced, held = False, ""
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            held += line.strip()
            if held.endswith("\\"):
                held = held[:-1]
                continue
            yield held
        held = ""


def in_blocks(path: Path) -> list[list[str]]:
    """Return the words after `nightschool` of each command line in a page's code blocks."""
    commands = []
    for line in shell_lines(path.read_text()):
        call = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?nightschool (?!.*\[)(.*)", line)
        if call and not line.startswith("nightschool:"):
            words = shlex.split(call[1], comments=True)
            ends = [words.index(sign) for sign in ("|", ">", "&&", ";") if sign in words]
            commands.append(_without_globals(words[: min(ends, default=len(words))]))
    return commands


def in_text(path: Path) -> list[list[str]]:
    """Return the words of each command named in a page's text: `nightschool night` or `night --retry`."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    top = command_line().commands
    commands = []
    for code in re.findall(r"`([^`]+)`", " ".join(text.split())):
        words = code.removeprefix("nightschool ").split()
        if code.startswith("nightschool ") or (len(words) > 1 and words[0] in top and words[1] != "="):
            commands.append(_without_globals(words))
    return commands


def _without_globals(words: list[str]) -> list[str]:
    """Return a command's words without --home DIR and --json, which may stand anywhere."""
    words = [word for word in words if word != "--json"]
    if "--home" in words:
        at = words.index("--home")
        del words[at : at + 2]
    return words


@cache
def command_line() -> Any:
    return generate.command_line()


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that these words call, and its arguments."""
    command, rest = command_line(), list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    only_options = all(word.startswith("--") for word in rest)  # a group may do something by itself
    assert not hasattr(command, "commands") or only_options, f"there is no command {' '.join(words)!r}"
    return command, rest


NUMBERS = ("NUMBER", "INTO")
"""Words that stand for a number in the usage of a command."""


def fault(words: list[str]) -> str:
    """Return what Typer says against a command with these words; nothing if it would run."""
    command, rest = command_of(words)
    rest = ["1" if word in NUMBERS else word for word in rest]
    try:
        command.make_context(command.name, rest)
    except Exception as error:  # Typer's own click raises its own errors
        return str(error.format_message() if hasattr(error, "format_message") else error)
    return ""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_with_all_its_words(path: Path) -> None:
    for words in in_blocks(path):
        assert not fault(words), f"{path.name}: nightschool {' '.join(words)}: {fault(words)}"
    for words in in_text(path):
        command, rest = command_of(words)
        options = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        for word in rest:
            assert not word.startswith("--") or word.partition("=")[0] in options, f"{path.name}: {words}"


QUICK = set(
    "status,config,doctor,pause,resume,forget,ingest,ledger conversations,ledger signals,ledger updates,"
    "ledger events,ledger pairs,ledger dreams,behaviours list,behaviours validate,checkpoints list,"
    "checkpoints show,checkpoints verify,checkpoints diff,checkpoints pin,checkpoints unpin,"
    "checkpoints prune,checkpoints export".split(",")
)
"""Commands that need no model; of those that delete, the dry run."""


def quick_commands() -> list[list[str]]:
    """Return the commands of all pages that a demonstration's home answers without a model, each once."""
    chosen: list[list[str]] = []
    for words in (words for path in PAGES for words in (*in_blocks(path), *in_text(path))):
        deletes = words[:1] == ["forget"] or words[:2] == ["checkpoints", "prune"]
        quick = words and {words[0], " ".join(words[:2])} & QUICK
        if quick and (not deletes or "--dry-run" in words) and words not in chosen and not fault(words):
            chosen.append(words)
    return chosen


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the home of `init --demo` and the files that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "corpus").symlink_to(ROOT / "corpus")
    (folder / "promise.toml").write_text(blocks(page(BEHAVIOURS), "toml")[0])
    (folder / "promise.jsonl").write_text(blocks(page(BEHAVIOURS), "jsonl")[0])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSCHOOL_HOME", str(folder / "home"))
        patch.setenv("HOME", str(folder))
        patch.chdir(folder)
        assert run(["init", "--demo"]) == 0
        assert run(["ingest", "promise.jsonl"]) == 0
        yield folder
    signal.signal(signal.SIGTERM, before)


def run(words: list[str]) -> int:
    """Run the command line in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nightschool", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def test_the_commands_that_need_no_model_run_as_they_are_written(
    demonstration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = 0
    for words in quick_commands():
        places = [
            Path(word).expanduser() for word in words[1:] if "/" in word or word.endswith((".toml", ".jsonl"))
        ]
        named = [word for word in words[1:] if re.fullmatch(r"[A-Z_]+|u\d+|[0-9a-f]{8,}", word)]
        if named or any("$" in str(place) for place in places):
            continue  # a placeholder: parsed above
        if not all(place.exists() for place in places) and words[:2] != ["checkpoints", "export"]:
            continue
        assert run(words) == 0, f"nightschool {' '.join(words)}: {capsys.readouterr()}"
        ran += 1
    assert ran >= 15


# Pointers


def code_in(path: Path) -> list[str]:
    """Return what stands in backticks in a page's text."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def defined_in(file: Path) -> set[str]:
    """Return the names that a module defines or imports at its top."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@cache
def source() -> str:
    """Return the text of all modules, of the Makefile and of the systemd unit."""
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    files += [ROOT / "Makefile", ROOT / "loop/nightschool.service"]
    return "\n".join(file.read_text() for file in files)


def leads_somewhere(dotted: str) -> bool:
    """Tell whether a dotted name of ours is a module, or a name in one."""
    parts = re.split(r"[.:]", dotted)
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.exists() or place.is_dir():
            return count == len(parts) or (file.exists() and parts[count] in defined_in(file))
    return False


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_name_that_a_page_points_to_exists(path: Path) -> None:
    tops = {place.name for place in ROOT.iterdir() if not place.name.startswith(".venv")}
    for code in code_in(path):
        word = code.removeprefix("python -m ").split()[0]
        if word.partition("/")[0] in tops and "/" in word and "<" not in word:
            assert list(ROOT.glob(word.rstrip("/").partition("::")[0])), f"{path.name}: {word}"
        elif re.fullmatch(r"(?:corpus|store|agents|loop|bench)(?:[.:]\w+)+", word):
            assert leads_somewhere(word), f"{path.name}: {word}"
        elif re.fullmatch(r"[\w-]+\.(?:py|c)", word):
            assert any(ROOT.glob(f"*/**/{word}")), f"{path.name}: {word}"
        elif re.fullmatch(r"_?[A-Z][A-Z0-9]*_[A-Z0-9_]+", word) and not word.startswith(
            ("NIGHTSCHOOL", "VLLM", "OMP")
        ):
            known = re.search(rf"\b{word}\b", source())
            assert known, f"{path.name}: {word}"
        elif re.fullmatch(r"(?:[A-Z][a-z]+)+", word) and word == code:
            assert re.search(rf"\b{word}\b", source()), f"{path.name}: {word}"
        elif call := re.fullmatch(r"(?:\w+\.)?(\w+)\([\w, ]*\)", code):
            assert f"def {call[1]}(" in source(), f"{path.name}: {code}"
    for snippet in blocks(path.read_text(), "python"):
        for module, names in re.findall(
            r"^from ((?:corpus|store|agents|loop)[\w.]*) import ([\w, ]+)", snippet, re.MULTILINE
        ):
            assert all(leads_somewhere(f"{module}.{name.strip()}") for name in names.split(",")), snippet


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_that_a_page_names_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE))
    for code in (*code_in(path), *shell_lines(path.read_text())):
        call = re.match(r"make (?:[A-Z_]+=\S+ )*([a-z-]+)(?= |$)", code)
        assert not call or call[1] in targets, f"{path.name}: make {call and call[1]}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", path.read_text()):
        place = path.parent / target if target else path
        assert place.exists(), f"{path.name} links to {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{path.name} links to {target}#{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        waiting += [
            (path.parent / target).resolve()
            for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", path.read_text())
        ]
    assert set(PAGES) <= reached


def test_the_licence_is_the_one_that_the_package_declares() -> None:
    assert "Apache License" in page("LICENSE") and 'license = "Apache-2.0"' in page("pyproject.toml")
