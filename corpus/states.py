"""The states that the readouts know, and the texts that show each state.

The states are in the order of `states.json`, the manifest; the texts of a state are in the order of its file.
Invariant: this module reads the manifest and the texts that ship with the package, and writes nothing. It
knows nothing about vectors, and does not judge the texts: corpus/README.md has the rules for writing them,
and tests/corpus/test_stories.py checks the texts against these rules.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
BASELINE = "baseline"
"""The file stem of a scenario's neutral telling; no state has this name."""
_MANIFEST = json.loads((HERE / "states.json").read_text(encoding="utf-8"))

CLUSTERS: dict[str, tuple[str, ...]] = {name: tuple(states) for name, states in _MANIFEST["clusters"].items()}
FURTHER: tuple[str, ...] = tuple(_MANIFEST["further"])
"""States of attention, work and relation; they belong to no cluster."""
STATES: tuple[str, ...] = (*(state for states in CLUSTERS.values() for state in states), *FURTHER)
VALENCE: dict[str, str] = _MANIFEST["valence"]
"""How each state feels, by state: "pleasant", "unpleasant" or "neutral"."""


def file_name(state: str) -> str:
    """Return the stem of a state's file names: the state's name with `_` for spaces and hyphens."""
    return state.replace(" ", "_").replace("-", "_")


_STATE_OF = {file_name(state): state for state in STATES}


def stories(state: str, root: Path = HERE) -> list[str]:
    """Return the stories of a state, which are the paragraphs of its file in `stories`; [] without a file."""
    path = root / "stories" / f"{file_name(state)}.txt"
    return paragraphs(path.read_text(encoding="utf-8")) if path.exists() else []


def paragraphs(text: str) -> list[str]:
    """Return the parts of a text between blank lines, each with every run of white space as one space."""
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def scenarios(root: Path = HERE) -> dict[str, dict[str, str]]:
    """Return the tellings of each paired scenario: {scenario: {state: text}}.

    The state is `baseline` for the neutral telling, and a name in STATES for the others. A file whose stem
    names no state is included under its stem, so that the caller can refuse it.
    """
    tellings_of: dict[str, dict[str, str]] = {}
    for path in sorted((root / "paired").glob("*/*.txt")):
        tellings = tellings_of.setdefault(path.parent.name, {})
        tellings[_STATE_OF.get(path.stem, path.stem)] = " ".join(path.read_text(encoding="utf-8").split())
    return tellings_of


def sha256(root: Path = HERE) -> str:
    """Return the digest of the manifest and of every text with its path, in the order of the paths."""
    digest = hashlib.sha256()
    for path in _files(root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    yield root / "states.json"
    yield from sorted([*root.glob("stories/*.txt"), *root.glob("paired/*/*.txt")])
