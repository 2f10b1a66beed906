"""Conversion of records to JSON and back, for sockets, files and `--json`; JSON from outside, within bounds.

Invariant: the fields of a record are its JSON keys, in their order. A field whose key is a Python keyword has
a trailing underscore: the key of `from_` is `from`. The annotation of such a field names its key, for
`from_json`: `Annotated[str, Field(alias="from")]`. A field with the metadata `ABSENT` is left out if it is
None.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

ABSENT: Final = {"absent": True}
"""Metadata of a field that has no key in JSON if it is None: `field(default=None, metadata=ABSENT)`."""

MAX_DEPTH = 64
"""Deepest nesting of JSON from outside: what reads it may call itself for each level."""
MAX_BRACKETS, MAX_COMMAS = 400_000, 1_000_000
"""Most opening brackets and most commas of a body, those in its texts included. 16 MiB of empty lists would
take 400 MB of memory; conversations have some thousands of values."""


def parse(raw: bytes) -> Any:
    """Return the value of a JSON text from outside; raise ValueError if it is none, or is beyond the bounds.

    The number of values is bounded before the text is parsed, because parsing is what takes the memory.
    """
    brackets = raw.count(b"[") + raw.count(b"{")
    if brackets > MAX_BRACKETS or raw.count(b",") > MAX_COMMAS:
        raise ValueError(f"it has over {MAX_BRACKETS} lists and objects, or over {MAX_COMMAS} values")
    try:
        value = json.loads(raw)
    except RecursionError as error:
        raise ValueError(f"it is nested over {MAX_DEPTH} levels deep") from error
    level = [value] if brackets > MAX_DEPTH else []
    for _ in range(MAX_DEPTH):
        level = [part for one in level for part in _parts(one) if isinstance(part, dict | list)]
    if level:
        raise ValueError(f"it is nested over {MAX_DEPTH} levels deep")
    return value


def _parts(value: Any) -> Iterable[Any]:
    """Return the values in an object or a list; none of a plain value."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def to_json(value: Any) -> Any:
    """Return a value as JSON can hold it: records become dictionaries, tuples become lists.

    Args:
        value: A record, a mapping, a list, a tuple or a plain value; they may contain one another.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name.rstrip("_"): to_json(part)
            for field in fields(value)
            if (part := getattr(value, field.name)) is not None or not field.metadata.get("absent")
        }
    if isinstance(value, Mapping):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    return value


def from_json(kind: Any, value: Any) -> Any:
    """Return the value of type `kind` from which `to_json` made this JSON value.

    Args:
        kind: A record's class, or any other type annotation.
        value: The JSON value.

    Raises:
        pydantic.ValidationError: The value is not of this kind.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_python(value)
