"""The rules of the house: imports, folders, lengths, typed reads, no pickle, a quick command line."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = ("corpus", "store", "agents", "loop")
"""A package may import from itself and from those before it."""
SHARED = "agents.model"
"""The one agent that the others may import."""
LONGEST_FILE = 400
"""Lines."""
LONGEST_FUNCTION = 60
"""Lines, from `def` to the last one."""
LARGEST_FOLDER = 16
"""Modules, `__init__.py` aside."""
UNTYPED = ("Mapping[str, Any]", "dict[str, Any]", "Json", "Row", "RowMapping")
"""What no query returns: mypy sees a renamed field of a record, and no renamed key."""
PICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNPICKLING_CALLS = {("torch", "load"), ("torch", "save"), ("numpy", "load"), ("np", "load")}
HEAVY = ("torch", "transformers")
NOT_FOR_HELP = (
    *HEAVY,
    "numpy",
    "sqlalchemy",
    "anyio",
    "pydantic",
    "zmq",
    "httpx",
    "starlette",
    "uvicorn",
    "structlog",
)


def sources() -> list[Path]:
    return [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that this file names in an import, wherever it stands, with its line."""
    package = path.relative_to(ROOT).parent.parts if path.is_relative_to(ROOT) else ()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            place = ".".join([*base, *([node.module] if node.module else [])])
            yield place, node.lineno
            yield from ((f"{place}.{alias.name}", node.lineno) for alias in node.names)


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of this file, nested ones too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def docstring_of(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text())) if path.exists() else None


def import_graph() -> dict[str, set[str]]:
    """Return which of our modules each of them imports, at its top or anywhere else."""
    ours = {module_of(path): path for path in sources()}
    graph: dict[str, set[str]] = {}
    for module, path in ours.items():
        named = {name for name, _ in imports_of(path)} & set(ours)
        # `from store.ledger import schema` names the package too: that alone is no import of what is in it.
        packages = {name for name in named if ours[name].name == "__init__.py" and not has_code(ours[name])}
        graph[module] = named - packages - {module}
    return graph


def has_code(path: Path) -> bool:
    """Whether a file has more than its docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that reach each other (Kosaraju: a second walk on the reverse graph)."""
    reverse: dict[str, set[str]] = {module: set() for module in graph}
    for module, others in graph.items():
        for other in others:
            reverse[other].add(module)
    finished: list[str] = []
    seen: set[str] = set()
    for module in graph:
        walk(graph, module, seen, finished)
    groups, seen = [], set()
    for module in reversed(finished):
        group: list[str] = []
        walk(reverse, module, seen, group)
        if len(group) > 1:
            groups.append(sorted(group))
    return groups


def walk(graph: dict[str, set[str]], start: str, seen: set[str], finished: list[str]) -> None:
    """Walk depth first through unseen modules and append each one when it is finished."""
    if start in seen:
        return
    seen.add(start)
    for other in sorted(graph[start]):
        walk(graph, other, seen, finished)
    finished.append(start)


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after this code."""
    names = "sorted({name.split('.')[0] for name in sys.modules})"
    script = f"{code}\nimport sys\nsys.stdout.write('|' + ' '.join({names}))"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ran.stdout.rpartition("|")[2].split())


def test_imports_go_one_way_only() -> None:
    wrong = []
    for path in sources():
        floor = FLOORS.index(path.relative_to(ROOT).parts[0])
        for name, line in imports_of(path):
            top = name.split(".")[0]
            if top in FLOORS and FLOORS.index(top) > floor:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
            if top in ("tests", "bench"):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong


def test_agents_do_not_import_each_other() -> None:
    wrong = []
    for path in sorted((ROOT / "agents").rglob("*.py")):
        own = ".".join(module_of(path).split(".")[:2])
        for name, line in imports_of(path):
            if name.startswith("agents.") and not f"{name}.".startswith((f"{own}.", f"{SHARED}.")):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong


def test_the_service_loads_neither_torch_nor_transformers() -> None:
    shown = "loop.cli.app, loop.api.host, loop.api.http, loop.cli.show.night"
    assert not loaded_by(f"import {shown}, loop.operations.status, loop.operations.init") & set(HEAVY)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys\nsys.argv = ['nightschool', '--help']\nfrom loop.cli.app import main\n"
    assert not loaded_by(f"{code}try:\n    main()\nexcept SystemExit:\n    pass") & set(NOT_FOR_HELP)


def test_nothing_is_pickled() -> None:
    wrong = []
    for path in sources():
        place = path.relative_to(ROOT)
        wrong += [f"{place}:{line}" for name, line in imports_of(path) if name.split(".")[0] in PICKLING]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if (node.value.id, node.attr) in UNPICKLING_CALLS:
                    wrong.append(f"{place}:{node.lineno}")
            if isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy"):
                wrong += [f"{place}:{node.lineno}" for alias in node.names if alias.name in ("load", "save")]
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                    wrong.append(f"{place}:{node.value.lineno} turns on trust_remote_code")
    assert not wrong


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE}


def test_no_function_is_longer_than_a_screen() -> None:
    long = []
    for path in sources():
        for node in functions_of(path):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines")
    assert not long


def test_no_folder_holds_more_modules_than_a_reader_can_survey() -> None:
    counts = Counter(path.parent.relative_to(ROOT) for path in sources() if path.name != "__init__.py")
    assert not {str(folder): count for folder, count in counts.items() if count > LARGEST_FOLDER}


def test_every_folder_says_what_is_in_it() -> None:
    folders = {path.parent for path in sources()}
    assert not [
        str(folder.relative_to(ROOT))
        for folder in sorted(folders)
        if not docstring_of(folder / "__init__.py")
    ]


def test_no_import_goes_in_a_circle() -> None:
    """Imports in a function or under TYPE_CHECKING count: whoever reads one file has to read the other."""
    assert not circles(import_graph())


def test_a_circle_of_any_kind_is_found(tmp_path: Path) -> None:
    lazy, typed = tmp_path / "lazy.py", tmp_path / "typed.py"
    lazy.write_text("def use() -> None:\n    from loop import config\n")
    typed.write_text(
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from loop.config import Settings\n"
    )
    for path in (lazy, typed):
        assert "loop.config" in {name for name, _ in imports_of(path)}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_no_query_returns_rows_without_types() -> None:
    wrong = []
    for path in sorted((ROOT / "store").rglob("*.py")):
        for node in functions_of(path):
            if node.name.startswith("_") or node.returns is None:
                continue
            names = {ast.unparse(part) for part in ast.walk(node.returns) if isinstance(part, ast.expr)}
            if names & set(UNTYPED):
                wrong.append(
                    f"{path.relative_to(ROOT)}:{node.lineno} {node.name} returns {ast.unparse(node.returns)}"
                )
    assert not wrong


def test_no_two_files_of_tests_have_one_name() -> None:
    """They are imported by it: of two only one could be."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_every_module_says_what_it_is_for() -> None:
    texts = {module_of(path): path.read_text() for path in sources()}
    assert not [
        name for name, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))
    ]


def test_agents_is_our_package_and_not_the_other_one() -> None:
    import agents
    import agents.model.client

    assert Path(agents.model.client.__file__).resolve() == ROOT / "agents" / "model" / "client.py"
    assert {Path(place).resolve() for place in agents.__path__} == {ROOT / "agents"}
