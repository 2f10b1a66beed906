"""The choice of an update's pairs: caps, minimum, replay, and the same choice for the same seed."""

from collections import Counter
from typing import Any

import pytest

from agents.pairs.propose import Proposal, SourceCaps, propose
from store.ledger.records import Pair


def pair(number: int, source: str = "anna", *, behaviour: str = "listen", dreamt: bool = True) -> Pair:
    return Pair(
        id=f"p{number:04}", behaviour=behaviour, messages=[], chosen="good", rejected="bad",
        chosen_from="attempt:a", rejected_from="attempt:b", dream_id=f"d{number}" if dreamt else None,
        signal_id=None, source=source, trust=1.0, checkpoint_id="c0", state="new", night_id="n1",
    )  # fmt: skip


def proposed(new: list[Pair], used: list[Pair] | None = None, **changes: Any) -> Proposal:
    limits = {
        "minimum": 2,
        "counters": {"push_back"},
        "caps": SourceCaps(per_source=96),
        "replay_share": 0.25,
        "seed": 1,
    }
    return propose(new, used or [], **{**limits, **changes})


def ids(pairs: list[Pair]) -> list[str]:
    return [pair.id for pair in pairs]


def test_all_new_pairs_are_taken_in_their_order() -> None:
    new = [pair(3), pair(1), pair(2)]
    assert ids(proposed(new).new) == ["p0003", "p0001", "p0002"]


def test_too_few_pairs_make_no_update_and_the_reason_names_the_minimum() -> None:
    proposal = proposed([pair(number) for number in range(23)], [pair(99)], minimum=24)
    assert (proposal.new, proposal.replay, proposal.reason) == (
        [],
        [],
        "23 new pairs of what is to be learnt, an update needs 24",
    )
    assert proposed([pair(number) for number in range(24)], minimum=24).reason == ""


def test_pairs_of_a_counter_behaviour_do_not_count_towards_the_minimum() -> None:
    guards = [pair(number, "", behaviour="push_back") for number in range(100)]
    assert proposed([*guards, pair(100)], minimum=2).new == []
    assert len(proposed([*guards, pair(100), pair(101)], minimum=2).new) == 102


def test_no_source_exceeds_its_cap_whatever_its_volume() -> None:
    new = [pair(number, "mallory") for number in range(500)] + [pair(500 + n, "anna") for n in range(10)]
    counted = Counter(chosen.source for chosen in proposed(new, caps=SourceCaps(per_source=16)).new)
    assert counted == {"mallory": 16, "anna": 10}


def test_pairs_over_the_cap_of_a_source_do_not_count_towards_the_minimum() -> None:
    assert (
        proposed(
            [pair(number, "mallory") for number in range(500)], caps=SourceCaps(per_source=16), minimum=17
        ).new
        == []
    )


def test_pairs_that_grew_from_declared_examples_have_no_cap() -> None:
    new = [pair(number, "") for number in range(50)]
    assert len(proposed(new, caps=SourceCaps(per_source=4)).new) == 50


def test_no_choice_of_name_avoids_the_cap() -> None:
    new = [pair(number, "declared") for number in range(50)]
    assert len(proposed(new, caps=SourceCaps(per_source=4)).new) == 4


def test_pairs_from_a_log_are_capped_like_dreams_from_it() -> None:
    """A log is untrusted input that reaches the weights either way."""
    new = [pair(number, "mallory", dreamt=False) for number in range(500)]
    assert len(proposed(new, caps=SourceCaps(per_source=16)).new) == 16


@pytest.mark.parametrize(
    "new, share, replayed", [(30, 0.25, 10), (60, 0.25, 20), (30, 0.5, 30), (30, 0.0, 0)]
)
def test_replay_is_the_configured_share_of_the_whole_update(new: int, share: float, replayed: int) -> None:
    used = [pair(1000 + number) for number in range(200)]
    proposal = proposed([pair(number) for number in range(new)], used, replay_share=share)
    assert len(proposal.new) == new and len(proposal.replay) == replayed
    assert set(ids(proposal.replay)) <= set(ids(used)) and ids(proposal.replay) == sorted(
        set(ids(proposal.replay))
    )


def test_replay_takes_all_used_pairs_when_there_are_few() -> None:
    used = [pair(1000), pair(1001)]
    assert ids(proposed([pair(number) for number in range(100)], used).replay) == ["p1000", "p1001"]
    assert proposed([pair(1), pair(2)]).replay == []


def test_the_same_seed_proposes_the_same_and_another_seed_replays_others() -> None:
    new, used = [pair(number) for number in range(60)], [pair(1000 + number) for number in range(300)]
    first = proposed(new, used, seed=5)
    assert proposed(new, used, seed=5) == first
    other = proposed(new, used, seed=6)
    assert ids(other.new) == ids(first.new) and ids(other.replay) != ids(first.replay)


def test_a_proposal_does_not_change_its_arguments() -> None:
    new, used = [pair(2), pair(1)], [pair(1001), pair(1000)]
    proposed(new, used, replay_share=0.5)
    assert (ids(new), ids(used)) == (["p0002", "p0001"], ["p1001", "p1000"])
