"""Rollbacks are exact: weights come back bit for bit, and training from there repeats the first time.

On the embedded model in float32, and in bfloat16, where weights are rounded at random and kept as deltas.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_home import SETTINGS

from agents.model.protocol import RpcRequest
from agents.model.weights import views
from agents.model.weights.shared import SharedWeights
from agents.trainer.messages import Example, TrainRequest
from agents.trainer.process.worker import Worker
from agents.trainer.update.training import TrainerContext
from agents.trainer.wire import pack_tokens, pack_train
from corpus.recipe import MODEL_DIR
from store.checkpoints.store import CheckpointStore
from store.tensors.raw import RawTensor

ROLLBACKS = {torch.float32: 500, torch.bfloat16: 250}
FEW = 40
LOOK_EVERY = 20
"""Rollbacks between two looks at the log-probabilities, which cost more than a rollback."""
FAMILY = (None, 0, 1, 1, 3, 4)
"""The parent of each checkpoint by its number: two lines that part at checkpoint 1."""
SETTING = replace(SETTINGS, lr=1e-3, batch_size=3, rank=8, proj_refresh=3)


@cache
def examples(seed: int) -> tuple[Example, ...]:
    """Return six examples in the embedded model's vocabulary."""
    draw = random.Random(seed)
    rows = [[[draw.randrange(1024) for _ in range(draw.randint(2, 9))] for _ in range(3)] for _ in range(6)]
    return tuple(
        Example(context=context, chosen=chosen, rejected=rejected) for context, chosen, rejected in rows
    )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A checkpoint, and the state of everything when it was made."""

    id: str
    update: TrainRequest | None
    fields: dict[str, Any]
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, RawTensor] | None
    logprobs: list[float]


class School:
    """A trainer in this process, on shared weights of its own."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM

        (folder / "run").mkdir(mode=0o700)
        state = AutoModelForCausalLM.from_pretrained(MODEL_DIR).state_dict()
        typed = {name: tensor.to(dtype) for name, tensor in state.items() if name != "lm_head.weight"}
        typed["lm_head.weight"] = typed["model.embed_tokens.weight"]  # tied, as it is served
        self.shared = SharedWeights.create(folder / "run" / "weights.bin", typed, model=str(MODEL_DIR))
        self.store = CheckpointStore(folder / "checkpoints")
        self.worker = Worker(
            TrainerContext(shared=self.shared, model=views.build(self.shared, MODEL_DIR), store=self.store),
            lambda _: None,
        )
        self.snapshots: list[Snapshot] = []
        for number, parent in enumerate(FAMILY):
            self.snapshots.append(
                self._first()
                if parent is None
                else self.train(self.update(self.snapshots[parent].id, number))
            )

    def answer(self, verb: str, body: dict[str, Any], frames: tuple[bytes, ...] = ()) -> dict[str, Any]:
        return self.worker.answer(RpcRequest(id="r", verb=verb, body=body, frames=frames), lambda _: None)[0]

    def update(self, parent: str, number: int) -> TrainRequest:
        """Return the update that makes the checkpoint of this number."""
        objective: Any = ("orpo", "dpo")[number % 2]
        return TrainRequest(
            objective=objective, settings=SETTING, seed=70 + number, parent=parent, examples=examples(number)
        )

    def train(self, update: TrainRequest) -> Snapshot:
        """Run this update from whatever weights are shared, and write its checkpoint."""
        body, frames = pack_train(update)
        self.answer("train", body, tuple(frames))
        return self._kept(
            update, {"cursor": 10 * update.seed, "seed": update.seed, "objective": update.objective}
        )

    def _first(self) -> Snapshot:
        return self._kept(None, {"cursor": 0, "seed": 1})

    def _kept(self, update: TrainRequest | None, fields: dict[str, Any]) -> Snapshot:
        parent = None if update is None else update.parent
        checkpoint_id = self.answer("checkpoint", {"parent": parent, "fields": fields})["id"]
        return Snapshot(
            id=checkpoint_id,
            update=update,
            fields={**fields, "parent": parent},
            weights={name: tensor.clone() for name, tensor in self.shared.tensors.items()},
            optimizer=self.store.load_optimizer(checkpoint_id),
            logprobs=self.logprobs(),
        )

    def logprobs(self) -> list[float]:
        """Return log-probabilities of fixed answers under the shared weights, as for references."""
        frames = [pack_tokens(side) for row in examples(99) for side in (row.context, row.chosen)]
        totals: list[float] = self.answer("logprobs", {}, tuple(frames))["totals"]
        return totals

    def back_to(self, snapshot: Snapshot) -> None:
        self.answer("rollback", {"checkpoint": snapshot.id, "settled": True})


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def school(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    torch.use_deterministic_algorithms(True)  # as the trainer's process does
    yield School(tmp_path_factory.mktemp("school"), request.param)
    torch.use_deterministic_algorithms(False)


def differs(school: School, snapshot: Snapshot) -> list[str]:
    """Return the parts of shared weights and files that differ from this checkpoint as it was made."""
    differences = [
        name
        for name, tensor in school.shared.tensors.items()
        if not torch.equal(tensor, snapshot.weights[name])
    ]
    manifest = school.store.manifest(snapshot.id)
    differences += [key for key, value in snapshot.fields.items() if manifest.fields[key] != value]
    if school.store.load_optimizer(snapshot.id) != snapshot.optimizer:
        differences.append("optimizer")
    if (school.shared.holds, school.shared.dirty) != (snapshot.id, False):
        differences.append("header")
    return differences


@pytest.mark.parametrize("most", [FEW, pytest.param(max(ROLLBACKS.values()), marks=pytest.mark.slow)])
def test_random_rollbacks_back_and_forth_are_exact(school: School, most: int) -> None:
    assert len({snapshot.id for snapshot in school.snapshots}) == len(FAMILY)
    forms = [school.store.stored(snapshot.id) for snapshot in school.snapshots]
    dtype = school.shared.tensors["model.norm.weight"].dtype
    assert {form.base is not None for form in forms[1:]} == {dtype == torch.bfloat16}, forms
    assert len({tuple(snapshot.logprobs) for snapshot in school.snapshots}) == len(
        FAMILY
    )  # else agreeing would say nothing
    draw, version = random.Random(11), school.shared.version
    before = next(snapshot for snapshot in school.snapshots if snapshot.id == school.shared.holds)
    for number in range(min(most, ROLLBACKS[dtype])):
        snapshot = draw.choice([other for other in school.snapshots if other is not before])
        school.back_to(snapshot)
        assert differs(school, snapshot) == [], number
        assert school.shared.version > version
        version, before = school.shared.version, snapshot
        if number % LOOK_EVERY == 0:
            assert school.logprobs() == snapshot.logprobs, number


def test_the_optimizers_state_holds_its_seed_and_its_steps_from_which_every_draw_follows(
    school: School,
) -> None:
    """Projections and rounding are drawn from these two; there is no other random state."""
    for snapshot in school.snapshots[1:]:
        assert snapshot.optimizer is not None
        steps = {bytes(raw.data) for name, raw in snapshot.optimizer.items() if name.startswith("step.")}
        depth = len(ancestors(school, snapshot))
        assert steps == {(2 * depth).to_bytes(8, "little")}  # 6 examples in batches of 3, each time
        assert "seed" in snapshot.optimizer


def ancestors(school: School, snapshot: Snapshot) -> list[str]:
    """Return the ancestors of this checkpoint."""
    parents = {other.id: other.fields["parent"] for other in school.snapshots}
    line, current = [], parents[snapshot.id]
    while current is not None:
        line.append(current)
        current = parents[current]
    return line


def test_training_after_a_rollback_gives_the_same_checkpoint_as_the_first_time(school: School) -> None:
    draw = random.Random(5)
    for snapshot in school.snapshots[1:]:
        assert snapshot.update is not None
        for other in draw.sample(school.snapshots, 2):
            school.back_to(other)
        torch.manual_seed(draw.randrange(1000))  # torch's own generator has no part in it
        random.seed(draw.randrange(1000))
        again = school.train(snapshot.update)
        assert again.id == snapshot.id and again.logprobs == snapshot.logprobs
        assert differs(school, snapshot) == ["header"]  # dirty, until its verdict
        school.answer("settle", {"checkpoint": snapshot.id})
        assert differs(school, snapshot) == []


@pytest.mark.parametrize("change", ["seed", "examples", "settings"])
def test_another_seed_example_or_setting_gives_other_weights(school: School, change: str) -> None:
    snapshot, changes = (
        school.snapshots[2],
        {"seed": 1, "examples": examples(50), "settings": replace(SETTING, eps=2e-8)},
    )
    assert snapshot.update is not None
    other = school.train(replace(snapshot.update, **{change: changes[change]}))
    assert not all(torch.equal(tensor, snapshot.weights[name]) for name, tensor in other.weights.items())
    school.back_to(school.snapshots[0])


def test_a_parent_without_its_optimizer_state_gives_another_update(school: School) -> None:
    """Moments, projections and rounding start fresh: only a parent with its state repeats the update."""
    parent, snapshot = school.snapshots[1], school.snapshots[2]
    bare = school.store.write(school.store.load_weights(parent.id), None, {**parent.fields, "cursor": 1})
    assert snapshot.update is not None
    other = school.train(replace(snapshot.update, parent=bare.id))
    assert not all(torch.equal(tensor, snapshot.weights[name]) for name, tensor in other.weights.items())
    school.back_to(school.snapshots[0])
