"""The model card and the record of a converted or downloaded model directory: they name its source.

Invariant: the record (`source.json`) is for programs, and the card (README.md) says the same for a person.
Loading the model reads neither.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

RECORD = "source.json"
"""Name of the record's file."""
_READ_BYTES = 1 << 20


def write_card(
    directory: Path, *, title: str, record: Mapping[str, str], notes: str, front: Mapping[str, object]
) -> None:
    """Write the card and the record into a model directory.

    Args:
        directory: The model directory.
        title: The model's name, which is the card's title.
        record: The source of the model; both files contain it.
        notes: The last paragraph of the card.
        front: The card's front matter, which the hub reads; JSON values, because these are YAML as well.
    """
    header = "".join(f"{key}: {json.dumps(value)}\n" for key, value in front.items())
    rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in record.items())
    (directory / "README.md").write_text(
        f"---\n{header}---\n\n# {_cell(title)}\n\n| | |\n|---|---|\n{rows}\n{notes}\n", encoding="utf-8"
    )
    (directory / RECORD).write_text(json.dumps(dict(record), indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_record(directory: Path) -> dict[str, str]:
    """Return the record of a model directory; {} if it has none, so was not made by this package."""
    try:
        record = json.loads((directory / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            sha256.update(piece)
    return sha256.hexdigest()


def _cell(text: str) -> str:
    """Return the text on one line and without bars, so that it fits into one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
