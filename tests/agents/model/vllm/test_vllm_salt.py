"""The salt of the prefix cache for each state of the weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agents.model.vllm.salt import Salt, WeightsSalt, join_salts, salt_for
from agents.model.weights.header import WeightsState
from agents.model.weights.shared import SharedWeights

SETTLED = WeightsState(version=4, dirty=False, holds="ab" * 32)
MID_UPDATE = WeightsState(version=5, dirty=True, holds="")
SECONDS = 10.0


def is_kept(before: WeightsState, after: WeightsState, *, passed: float) -> bool:
    """Return whether the salt of `before` is still in use `passed` seconds later, in the state `after`."""
    salt = Salt(state=before, at=100.0)
    next_salt = salt_for(salt, after, at=100.0 + passed, seconds=SECONDS)
    assert next_salt is salt or next_salt == Salt(state=after, at=100.0 + passed)
    return next_salt is salt


def test_the_first_request_gets_the_salt_of_the_weights_as_they_are() -> None:
    assert salt_for(None, SETTLED, at=7.0, seconds=SECONDS) == Salt(state=SETTLED, at=7.0)


@pytest.mark.parametrize("state", [SETTLED, MID_UPDATE])
def test_the_salt_stays_as_long_as_the_weights_do(state: WeightsState) -> None:
    assert is_kept(state, state, passed=1e6)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SETTLED, replace(SETTLED, dirty=True)),
        (SETTLED, replace(MID_UPDATE, version=4)),
        (MID_UPDATE, replace(MID_UPDATE, holds="cd" * 32)),
        (replace(SETTLED, dirty=True), SETTLED),
        (MID_UPDATE, SETTLED),
    ],
    ids=["starting", "started", "trained", "settled", "undone"],
)
def test_the_salt_changes_at_once_when_an_update_starts_ends_or_is_undone(
    before: WeightsState, after: WeightsState
) -> None:
    assert not is_kept(before, after, passed=0.0)


def test_weights_that_change_outside_an_update_change_the_salt_at_once() -> None:
    assert not is_kept(SETTLED, replace(SETTLED, version=5), passed=0.0)
    candidate = replace(SETTLED, dirty=True)
    assert not is_kept(candidate, replace(candidate, version=5), passed=0.0)


def test_within_an_update_the_salt_changes_at_the_first_step_after_the_interval() -> None:
    assert is_kept(MID_UPDATE, replace(MID_UPDATE, version=9), passed=SECONDS - 0.1)
    assert not is_kept(MID_UPDATE, replace(MID_UPDATE, version=9), passed=SECONDS)


def test_no_salt_is_used_again_for_other_weights() -> None:
    salt, seen = None, list[Salt]()
    for version in range(1, 200):
        in_update = bool(version // 7 % 2)
        state = WeightsState(version=version, dirty=in_update, holds="" if in_update else "ab" * 32)
        salt = salt_for(salt, state, at=version * 3.0, seconds=SECONDS)
        if not seen or salt is not seen[-1]:
            seen.append(salt)
    assert len({salt.state for salt in seen}) == len(seen)


def test_joined_salts_differ_whenever_one_of_them_does() -> None:
    all_of_them = [
        ("", "", ""),
        ("a", "", ""),
        ("", "a", ""),
        ("", "", "a"),
        ("a", "b", ""),
        ('a", "b', "", ""),
    ]
    assert join_salts("", "") is None
    assert len({join_salts(*parts) for parts in all_of_them}) == len(all_of_them)


def test_a_salt_names_the_shared_weights_and_is_empty_without_any(tmp_path: Path) -> None:
    salt = WeightsSalt(tmp_path / "weights.bin", SECONDS)
    assert salt.current() == ""
    shared = SharedWeights.create(tmp_path / "weights.bin", {"a": torch.zeros(3)}, model="a")
    first = salt.current()
    assert first == salt.current() != ""
    shared.bump()
    assert salt.current() != first
    SharedWeights.create(tmp_path / "weights.bin", {"a": torch.zeros(3)}, model="a")
    assert WeightsSalt(tmp_path / "weights.bin", SECONDS).current() != first
