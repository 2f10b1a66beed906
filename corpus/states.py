"""The states that the readouts know, and the texts that show each of them.

Invariant: reads the manifest and the texts that ship with the package and writes nothing; states come in the
manifest's order, a state's texts in the order of its file. It does not know what a vector is, nor whether a text
is any good: the rules of writing are in corpus/README.md, and tests/corpus/test_stories.py holds the texts to them.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
BASELINE = "baseline"
"""The file stem of the neutral telling of a scenario; no state has this name."""
_MANIFEST = json.loads((HERE / "states.json").read_text(encoding="utf-8"))

CLUSTERS: dict[str, tuple[str, ...]] = {name: tuple(states) for name, states in _MANIFEST["clusters"].items()}
FURTHER: tuple[str, ...] = tuple(_MANIFEST["further"])
"""States of attention, work and relation, which stand in no cluster."""
STATES: tuple[str, ...] = (*(state for states in CLUSTERS.values() for state in states), *FURTHER)
VALENCE: dict[str, str] = _MANIFEST["valence"]
"""Of each state: "pleasant", "unpleasant" or "neutral", as it is to whoever is in it."""
_CLUSTER_OF = {state: name for name, states in CLUSTERS.items() for state in states}


def cluster_of(state: str) -> str | None:
    """The cluster of a state, or None for one of the further states."""
    return _CLUSTER_OF.get(state)


def file_name(state: str) -> str:
    """The stem of a state's files: spaces and hyphens become `_`."""
    return state.replace(" ", "_").replace("-", "_")


_STATE_OF = {file_name(state): state for state in STATES}


def stories(state: str, root: Path = HERE) -> list[str]:
    """The unpaired stories of a state, a paragraph each; none where it has no file."""
    path = root / "stories" / f"{file_name(state)}.txt"
    return paragraphs(path.read_text(encoding="utf-8")) if path.exists() else []


def paragraphs(text: str) -> list[str]:
    """A file's paragraphs, which blank lines separate, with every run of white space as one space."""
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def scenarios(root: Path = HERE) -> dict[str, dict[str, str]]:
    """The paired scenarios by name: each told as `baseline` and in some states, which are named as in STATES.

    A file whose stem is no state's is left under its stem: whoever reads it must say so.
    """
    found: dict[str, dict[str, str]] = {}
    for path in sorted((root / "paired").glob("*/*.txt")):
        texts = found.setdefault(path.parent.name, {})
        texts[_STATE_OF.get(path.stem, path.stem)] = " ".join(path.read_text(encoding="utf-8").split())
    return found


def sha256(root: Path = HERE) -> str:
    """The digest of the manifest and every text with its place, in the order of their places."""
    digest = hashlib.sha256()
    for path in _files(root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    yield root / "states.json"
    yield from sorted([*root.glob("stories/*.txt"), *root.glob("paired/*/*.txt")])
