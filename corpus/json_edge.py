"""Records as JSON and back: the one edge between typed results and a socket, a file or `--json`.

Invariant: a record's fields are its JSON keys, in their order. A trailing underscore keeps a field apart from
a word of the language: `from_` is the key `from`, and its type names the alias for the way back
(`Annotated[str, Field(alias="from")]`). A field with the metadata `ABSENT` is left out if it is None.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

ABSENT: Final = {"absent": True}
"""Metadata of a field that has no key in JSON if it is None: `field(default=None, metadata=ABSENT)`."""


def to_json(value: Any) -> Any:
    """Return a record, or whatever holds records, as dictionaries, lists and plain values."""
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
    """Read back what `to_json` made of a record of this kind; any annotation is a kind.

    Raises:
        pydantic.ValidationError: The value is not of this kind.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_python(value)
