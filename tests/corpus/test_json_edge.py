"""Records to JSON and back."""

import json
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from corpus.json_edge import ABSENT, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Leaf:
    name: str
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Branch:
    from_: Annotated[str, Field(alias="from")]
    leaves: tuple[Leaf, ...]
    by_name: dict[str, Leaf]
    note: str | None = None
    extra: list[str] | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, kw_only=True)
class Grown(Branch):
    night: str | None


LEAF = Leaf(name="a", score=None)


def branch(extra: list[str] | None = None) -> Branch:
    return Branch(from_="root", leaves=(LEAF,), by_name={"a": LEAF}, extra=extra)


def test_the_fields_are_the_keys_in_their_order() -> None:
    value = to_json(branch(extra=["x"]))
    assert json.dumps(value) == (
        '{"from": "root", "leaves": [{"name": "a", "score": null}], '
        '"by_name": {"a": {"name": "a", "score": null}}, "note": null, "extra": ["x"]}'
    )


def test_only_a_marked_field_is_left_out_when_it_is_none() -> None:
    value = to_json(branch())
    assert "extra" not in value and value["note"] is None


@pytest.mark.parametrize("extra", [None, ["x"]])
def test_a_record_makes_the_round_trip(extra: list[str] | None) -> None:
    record = branch(extra)
    assert from_json(Branch, json.loads(json.dumps(to_json(record)))) == record


def test_of_two_types_the_one_with_all_the_keys_is_read() -> None:
    grown = Grown(from_="root", leaves=(), by_name={}, night=None)
    for record in (branch(), grown):
        back = from_json(Grown | Branch, to_json(record))
        assert type(back) is type(record) and back == record


def test_a_value_of_another_form_is_refused() -> None:
    with pytest.raises(ValidationError):
        from_json(Branch, {"from": "root"})
