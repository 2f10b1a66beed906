"""The house's own rules: which way imports go, no pickle, short files, a quick command line."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("corpus", "store", "agents", "loop")
"""A package may import from itself and from those before it."""
SHARED = "agents.model"
"""The one agent that the others may import."""
LONGEST_FILE = 400
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
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            place = ".".join([*base, *([node.module] if node.module else [])])
            yield place, node.lineno
            yield from ((f"{place}.{alias.name}", node.lineno) for alias in node.names)


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after this code."""
    script = f"{code}\nimport sys\nsys.stdout.write('|' + ' '.join(sorted({{n.split('.')[0] for n in sys.modules}})))"
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


@pytest.mark.parametrize(
    "module",
    [
        "loop.cli.app",
        "loop.api.host",
        "loop.api.http",
        "loop.cli.show.night",
        "loop.operations.status",
        "loop.operations.init",
    ],
)
def test_the_service_loads_neither_torch_nor_transformers(module: str) -> None:
    assert not loaded_by(f"import {module}") & set(HEAVY)


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
