"""Preventative steering: the stream moves while an update trains, so the weights need not move that way."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_home import SETTINGS, Home, examples, request

from agents.model.steering.wire import Direction
from agents.model.weights import views
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import raw_weights
from agents.trainer.scoring import prefix_scoring
from agents.trainer.scoring.residual_stream import steered
from agents.trainer.update.objective import loss_of
from agents.trainer.update.training import TrainerContext, run_update
from bench import preventative
from bench._embedded import Embedded
from corpus.errors import TrainerFault
from corpus.world.concepts import CONCEPTS
from loop.verdict.rates import mcnemar
from store.checkpoints.store import CheckpointStore

HIDDEN = 64


def direction(layer: int = 0, strength: float = 5.0, seed: int = 2) -> Direction:
    drawn = np.random.default_rng(seed).normal(size=HIDDEN)
    return Direction(
        layer=layer, data=(strength * drawn / np.linalg.norm(drawn)).astype(np.float32).tobytes()
    )


@torch.no_grad()
def plainly(model: Any, context: list[int], answer: list[int], moved: dict[int, torch.Tensor]) -> float:
    """Return the answer's log-probability from one plain pass over all tokens, moved by separate hooks."""
    handles = [
        model.base_model.layers[layer].register_forward_hook(lambda module, inputs, output, v=v: output + v)
        for layer, v in moved.items()
    ]
    logits = model(input_ids=torch.tensor([[*context, *answer]])).logits[0, len(context) - 1 : -1]
    for handle in handles:
        handle.remove()
    return float(torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(answer)[:, None]).sum())


@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
def test_contexts_and_continuations_are_moved_alike_and_no_hook_remains(
    tiny: Any, layers: tuple[int, ...]
) -> None:
    rows = examples()
    contexts, sides = [list(row.context) for row in rows], [[list(row.chosen) for row in rows]]
    directions = [direction(layer, seed=layer) for layer in layers]
    moved = {one.layer: torch.frombuffer(bytearray(one.data), dtype=torch.float32) for one in directions}
    (before,) = prefix_scoring.scores(tiny, contexts, sides, train=False)
    with steered(tiny, directions):
        (moved_scores,) = prefix_scoring.scores(tiny, contexts, sides, train=False)
        (exact,) = prefix_scoring.scores(tiny, contexts, sides, train=True, context_gradient=True)
        (again,) = prefix_scoring.scores(tiny, contexts, sides, train=True, checkpointing=True)
    (after,) = prefix_scoring.scores(tiny, contexts, sides, train=False)
    wanted = torch.tensor([plainly(tiny, c, a, moved) for c, a in zip(contexts, sides[0], strict=True)])
    for actual in (moved_scores, exact, again):
        torch.testing.assert_close(actual.total.detach(), wanted, atol=1e-3, rtol=0)
    assert torch.equal(before.total, after.total) and not torch.allclose(before.total, wanted, atol=1e-2)


def test_gradients_with_checkpointing_are_those_without(tiny: Any) -> None:
    actual = []
    for checkpointing in (False, True):
        tiny.zero_grad(set_to_none=True)
        settings = replace(SETTINGS, activation_checkpointing=checkpointing)
        tiny.requires_grad_(True)
        with steered(tiny, [direction()]):
            loss_of(tiny, "orpo", settings, examples(), train=True).value.backward()
        actual.append([parameter.grad.clone() for parameter in tiny.parameters()])
        tiny.zero_grad(set_to_none=True)
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(*actual, strict=True))


@pytest.mark.parametrize("wrong", [direction(layer=2), Direction(layer=0, data=bytes(4 * 128))])
def test_a_direction_of_another_model_is_refused_with_the_reason(tiny: Any, wrong: Direction) -> None:
    before = [
        len(layer._forward_hooks) for layer in tiny.base_model.layers
    ]  # transformers' own, if it ran before
    with pytest.raises(TrainerFault, match="another model's"), steered(tiny, [direction(), wrong]):
        raise AssertionError("it was taken")
    assert [len(layer._forward_hooks) for layer in tiny.base_model.layers] == before


def test_an_update_trains_steered_and_its_references_are_not(
    make_home: Callable[[], Path], model_directory: Path
) -> None:
    home = make_home()
    shared, store = SharedWeights.attach(home / "run" / "weights.bin"), CheckpointStore(home / "checkpoints")
    shared.holds = parent = store.write(raw_weights(shared), None, {}).id
    bench = TrainerContext(shared=shared, model=views.build(shared, model_directory), store=store)

    def trained(*prevent: Direction) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        asked = request(parent, objective="dpo", prevent=prevent)
        steps = run_update(bench, asked, lambda _: None, lambda: None)[0].reports
        return dict(steps[0].metrics), {name: tensor.clone() for name, tensor in shared.tensors.items()}

    (plain, weights), (steered, moved), (_, again) = trained(), trained(direction()), trained(direction())
    assert any(not torch.equal(weights[name], moved[name]) for name in weights)
    assert all(torch.equal(moved[name], again[name]) for name in moved)
    # The plain run starts at its references; the steered run has the same references and does not.
    assert plain["margin"] == pytest.approx(0, abs=1e-4) and abs(steered["margin"]) > 1e-3


def test_log_probabilities_of_a_steered_model_come_over_the_socket(home: Home, tiny: Any) -> None:
    items = [(list(row.context), list(row.chosen)) for row in examples(3)]
    moved = {0: torch.frombuffer(bytearray(direction().data), dtype=torch.float32)}
    plain, steered = home.ask("logprobs", items), home.ask("logprobs", items, [direction()])
    assert [one.total for one in steered] == pytest.approx(
        [plainly(tiny, *item, moved) for item in items], abs=1e-3
    )
    assert [one.total for one in plain] == pytest.approx(
        [plainly(tiny, *item, {}) for item in items], abs=1e-3
    )


@pytest.mark.slow
def test_steered_training_lowers_the_drift_of_a_watched_concept_at_equal_gain(tmp_path: Path) -> None:
    """The embedded model learns `listen` and reads as briefer: by a third less when it is steered."""
    model = Embedded(tmp_path, layer=preventative.LAYER)
    before, pairs = model.outcomes("listen", 200), model.pairs("listen", preventative.WORLD)
    vector = model.vectors[CONCEPTS.index("being_brief")]
    chance = np.random.default_rng(0).normal(size=len(vector))
    drift, outcomes = {}, {}
    for way, prevent in {
        "plain": (),
        "steered": (model.along(vector, 20.0),),
        "by chance": (model.along(chance, 20.0),),
    }.items():
        model.train(pairs, preventative.SETTINGS, 0, prevent)
        drift[way], outcomes[way] = model.drift()["being_brief"], model.outcomes("listen", 200)
    assert 0 < drift["steered"] < 0.75 * drift["plain"] < drift["by chance"]
    assert before.count("1") < 40 and outcomes["plain"].count("1") > 190
    flips = list(zip(outcomes["plain"], outcomes["steered"], strict=True))
    assert mcnemar(flips.count(("1", "0")), flips.count(("0", "1"))) > 0.05


@pytest.mark.slow
def test_steered_training_lowers_the_drift_on_the_pairs_of_a_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["preventative", "--seeds", "2"])
    assert preventative.main() == 0
