"""A merge in the running trainer: shared weights, candidate, and the parent's return after a failure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_home import SETTINGS, Home, examples, request

from agents.model.weights.snapshot import from_raw, to_raw, unique_entries
from agents.trainer.wire import MergePart
from corpus.errors import GateRefused, IntegrityFault, TrainerFault

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Two:
    """Two updates of the first checkpoint, trained separately on different examples."""

    home: Home
    ids: tuple[str, str]

    def weights(self, checkpoint_id: str) -> Weights:
        return {name: from_raw(raw) for name, raw in self.home.store.load_weights(checkpoint_id).items()}

    def parts(self, *weights: float) -> list[MergePart]:
        first = self.home.first
        return [(first, end, weight) for end, weight in zip(self.ids, weights, strict=False)]

    def merge(
        self, parent: str, parts: list[MergePart], method: str = "arithmetic", density: float = 1.0
    ) -> Any:
        return self.home.ask("merge", parent, parts, method=method, density=density)


@pytest.fixture(scope="module")
def two(running: Home) -> Two:
    ids = []
    for half in (examples()[:5], examples()[5:]):
        running.ask("train", request(running.first, settings=SETTINGS, examples=half))
        ids.append(running.ask("checkpoint", running.first, {"cursor": 1, "seed": len(ids)}).id)
    return Two(home=running, ids=(ids[0], ids[1]))


@pytest.fixture(autouse=True)
def at_the_first(two: Two, home: Home) -> None:
    """Return the running trainer, rolled back to the first checkpoint."""


def test_a_merge_adds_the_vectors_to_the_parent_and_is_dirty_until_it_is_finalized(two: Two) -> None:
    home, version = two.home, two.home.shared.version
    base, (one, other) = two.weights(home.first), (two.weights(end) for end in two.ids)
    moved = two.merge(home.first, two.parts(1.0, -0.5))
    served = home.weights()
    for name, start in base.items():
        wanted = start + ((one[name] - start) - 0.5 * (other[name] - start))
        assert torch.equal(served[name], wanted), name
    assert home.shared.dirty and home.shared.holds == "" and home.shared.version == version + 1
    total = torch.cat([(served[name] - start).double().flatten() for name, start in base.items()])
    assert moved.norm == pytest.approx(float(total.norm()), rel=1e-6)
    assert (moved.changed, moved.elements) == (int(total.count_nonzero()), total.numel())


def test_a_merge_by_ties_equals_a_separate_computation(two: Two) -> None:
    home = two.home
    base, (one, other) = two.weights(home.first), (two.weights(end) for end in two.ids)
    two.merge(home.first, two.parts(1.0, 1.0), "ties", 0.3)
    served = home.weights()
    for name, start in base.items():
        flat = [(end[name] - start).flatten() for end in (one, other)]
        keep = max(1, int(0.3 * start.numel() + 0.5))
        for vector in flat:
            vector[vector.abs().argsort(descending=True)[keep:]] = 0
        both = torch.stack(flat)
        agrees = (both.sign() == both.sum(0).sign()) & (both != 0)
        mean = (both * agrees).sum(0) / agrees.sum(0).clamp(min=1)
        assert torch.allclose(served[name], start + mean.reshape(start.shape), rtol=0, atol=1e-6), name
        assert torch.equal(served[name] != start, (mean != 0).reshape(start.shape)), name


def test_a_merges_candidate_has_no_optimizer_state_and_training_on_it_starts_fresh(
    two: Two,
) -> None:
    home = two.home
    two.merge(home.first, two.parts(1.0, 1.0))
    written = home.ask("checkpoint", home.first, {"cursor": 1, "seed": 9})
    assert written.optimizer_sha256 is None and home.shared.holds == written.id
    served = home.weights()
    home.ask("rollback", home.first, settled=True)
    two.merge(home.first, two.parts(1.0, 1.0))
    again = home.ask("checkpoint", home.first, {"cursor": 1, "seed": 9})
    assert again.id == written.id and home.serves(served)
    assert home.ask("train", request(written.id)).optimizer == "fresh"
    assert home.ask("train", request(two.ids[0])).optimizer == "continued"


def test_a_merge_starts_from_the_parent_whatever_the_shared_weights_hold(two: Two) -> None:
    home = two.home
    two.merge(home.first, two.parts(2.0))
    once = home.weights()
    home.ask("train", request(two.ids[1]))
    two.merge(home.first, two.parts(2.0))
    assert home.serves(once)
    two.merge(two.ids[0], [(home.first, two.ids[0], -1.0)])
    served = home.weights()
    assert all(
        torch.allclose(tensor, served[name], atol=1e-6) for name, tensor in two.weights(home.first).items()
    )


def test_a_merge_that_is_not_finite_is_refused_and_the_parent_restored(two: Two) -> None:
    """Even if only the last tensor overflows, nothing has been written."""
    home, before, version = two.home, two.home.weights(), two.home.shared.version
    end = dict(home.store.load_weights(two.ids[0]))
    last = unique_entries(home.shared)[-1].name
    end[last] = to_raw(torch.full(end[last].shape, 3e38))
    huge = home.store.write(end, None, {"seed": 4}).id
    for weight, end_id in ((2.0, huge), (1e300, two.ids[0])):
        with pytest.raises(GateRefused, match="not finite; nothing was kept"):
            two.merge(home.first, [(home.first, end_id, weight)])
        assert home.shared.version == version
        assert home.serves(before) and home.shared.holds == home.first and not home.shared.dirty
    with pytest.raises(TrainerFault, match="no update of"):
        home.ask("checkpoint", home.first, {"cursor": 1, "seed": 9})


def test_a_merge_of_a_damaged_or_missing_checkpoint_changes_nothing(two: Two) -> None:
    home, before, version = two.home, two.home.weights(), two.home.shared.version
    with pytest.raises(IntegrityFault):
        two.merge(home.first, [(home.first, "0" * 64, 1.0)])
    other = {"another.weight": to_raw(torch.ones(3))}
    stranger = home.store.write(other, None, {"seed": 3}).id
    with pytest.raises(IntegrityFault, match="of another model"):
        two.merge(home.first, [(home.first, stranger, 1.0)])
    assert home.serves(before) and home.shared.version == version and not home.shared.dirty


@pytest.mark.parametrize(
    "body",
    [
        {"parts": []},
        {"parts": [["a", "b"]]},
        {"method": "slerp"},
        {"density": "much"},
        {"more": 1},
    ],
)
def test_a_malformed_merge_is_refused(two: Two, body: dict[str, Any]) -> None:
    home = two.home
    asked = {
        "parent": home.first,
        "method": "ties",
        "density": 0.5,
        "parts": [[home.first, two.ids[0], 1.0]],
        **body,
    }
    with pytest.raises(TrainerFault):
        home.call(lambda client: client._ask("merge", asked))
    assert home.shared.holds == home.first and not home.shared.dirty


def test_merges_leave_no_error_in_the_log(two: Two) -> None:
    assert "Traceback" not in Path(two.home.log).read_text()
