"""The names that a user may give for a model: a directory, a GGUF file, or a name on the hub.

Invariant: this module only looks whether a path exists. It opens no file and uses no network.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from corpus.errors import UsageError

_HUB_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, kw_only=True)
class DirectorySource:
    """A Hugging Face directory, which is used where it is."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class GgufSource:
    """A GGUF file, which is converted into a directory in the home."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A model on the hub, which is downloaded into the home."""

    name: str
    """The model's name on the hub, `ORG/NAME`."""
    revision: str
    """The branch, tag or commit that the user named; `main` if the user named none."""


Source = DirectorySource | GgufSource | HubSource


def read_source(text: str) -> Source:
    """Return the source that the user's text names; a path that exists is never read as a name on the hub."""
    path = Path(text).expanduser()
    if path.is_dir():
        return DirectorySource(path=path.absolute())
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UsageError(f"there is no file {path}: name a GGUF file that exists")
        return GgufSource(path=path.absolute())
    if path.is_file():
        raise UsageError(f"{path} is neither a directory nor a .gguf file: name the model's directory")
    if match := _HUB_NAME.fullmatch(text):
        return HubSource(name=match["name"], revision=match["revision"] or "main")
    raise UsageError(
        f"there is no model {text}: name a Hugging Face directory, a .gguf file, or a model on the hub "
        "(ORG/NAME or ORG/NAME@REVISION)"
    )
