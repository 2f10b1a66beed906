"""Records as JSON and back."""

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
    told = to_json(branch(extra=["x"]))
    assert json.dumps(told) == (
        '{"from": "root", "leaves": [{"name": "a", "score": null}], '
        '"by_name": {"a": {"name": "a", "score": null}}, "note": null, "extra": ["x"]}'
    )


def test_only_a_field_that_is_marked_so_is_left_out_where_it_is_none() -> None:
    told = to_json(branch())
    assert "extra" not in told and told["note"] is None


@pytest.mark.parametrize("extra", [None, ["x"]])
def test_a_record_comes_back_as_it_was(extra: list[str] | None) -> None:
    made = branch(extra)
    assert from_json(Branch, json.loads(json.dumps(to_json(made)))) == made


def test_of_two_kinds_the_one_that_has_all_the_keys_comes_back() -> None:
    grown = Grown(from_="root", leaves=(), by_name={}, night=None)
    for made in (branch(), grown):
        back = from_json(Grown | Branch, to_json(made))
        assert type(back) is type(made) and back == made


def test_what_is_no_such_record_is_refused() -> None:
    with pytest.raises(ValidationError):
        from_json(Branch, {"from": "root"})
