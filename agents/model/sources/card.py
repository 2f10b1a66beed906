"""The model card and the record of a directory that was made here: which source it came from.

Invariant: the record is data of ours (`source.json`); the card says the same for a person. Neither is read by
whatever loads the model.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

RECORD = "source.json"
"""The file of the record."""
_READ_BYTES = 1 << 20


def write_card(
    directory: Path, *, title: str, record: Mapping[str, str], notes: str, front: Mapping[str, object]
) -> None:
    """Write README.md and the record.

    Args:
        directory: The model's directory.
        title: The model's name.
        record: Where the model came from; the same in both files.
        notes: A paragraph that the card ends with.
        front: The front matter that the hub reads, as JSON values, which are YAML as well.
    """
    header = "".join(f"{key}: {json.dumps(value)}\n" for key, value in front.items())
    rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in record.items())
    (directory / "README.md").write_text(
        f"---\n{header}---\n\n# {_cell(title)}\n\n| | |\n|---|---|\n{rows}\n{notes}\n", encoding="utf-8"
    )
    (directory / RECORD).write_text(json.dumps(dict(record), indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_record(directory: Path) -> dict[str, str]:
    """Return the record of a directory; {} where it was not made here."""
    try:
        record = json.loads((directory / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def sha256_of(path: Path) -> str:
    """Return the digest of a file."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            sha256.update(piece)
    return sha256.hexdigest()


def _cell(text: str) -> str:
    """Return text that stays in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
