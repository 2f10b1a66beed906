"""Conversion of records to JSON and back, for sockets, files and `--json`.

Invariant: the fields of a record are its JSON keys, in their order. A field whose key is a Python keyword has
a trailing underscore: the key of `from_` is `from`. The annotation of such a field names its key, for
`from_json`: `Annotated[str, Field(alias="from")]`. A field with the metadata `ABSENT` is left out if it is
None.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

ABSENT: Final = {"absent": True}
"""Metadata of a field that has no key in JSON if it is None: `field(default=None, metadata=ABSENT)`."""


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
