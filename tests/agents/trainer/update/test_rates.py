"""The rate that an update finds from its first step, and the type that it multiplies matrices in."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from trainer_home import SETTINGS, examples, request

from agents.model.weights.snapshot import raw_weights, restore
from agents.trainer.handler import MOST_EPOCHS, SHIPPED, TrainingSettings, trainer_settings
from agents.trainer.messages import TrainRequest, TrainResult
from agents.trainer.scoring.compute import has_amx, resolve
from agents.trainer.update.objective import loss_of
from agents.trainer.update.rates import FIRST_SHARE, WARMUP_STEPS
from agents.trainer.update.training import TrainerContext, dry_run, run_update
from corpus.errors import StepRefused
from store.tensors.raw import RawTensor

AUTO = replace(SETTINGS, lr="auto", epochs=2)


def trained(bench: TrainerContext, update: TrainRequest) -> tuple[TrainResult, dict[str, RawTensor]]:
    return run_update(bench, update, lambda _: None, lambda: None)


def weights(bench: TrainerContext) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in bench.shared.tensors.items()}


# ---------------------------------------------------------------- the rate


@pytest.mark.parametrize("objective", ["orpo", "dpo", "sft"])
def test_the_first_step_at_the_found_rate_is_the_objectives_share_of_the_weights(
    bench: TrainerContext, objective: Any
) -> None:
    parent = bench.shared.holds
    result, _ = trained(bench, request(parent, objective=objective, settings=AUTO))
    assert result.first_share == pytest.approx(FIRST_SHARE)
    given = replace(AUTO, lr=result.lr)
    plain, _ = trained(bench, request(parent, objective=objective, settings=given))
    assert plain.reports[0].metrics["update_ratio"] == pytest.approx(FIRST_SHARE, rel=1e-5)


def test_a_found_rate_rises_over_the_first_steps_and_a_given_rate_is_used_as_it_is(
    bench: TrainerContext,
) -> None:
    parent = bench.shared.holds
    found, _ = trained(bench, request(parent, settings=AUTO))
    rates = [step.metrics["lr"] for step in found.reports]
    assert rates == pytest.approx([found.lr * min(1, k / WARMUP_STEPS) for k in range(1, 7)])
    given, _ = trained(bench, request(parent))
    assert {step.metrics["lr"] for step in given.reports} == {SETTINGS.lr} == {given.lr}
    assert given.first_share is None and "first_share" not in given.reports[0].metrics


def test_an_update_that_is_made_again_finds_the_same_rate_and_ends_with_the_same_bits(
    bench: TrainerContext,
) -> None:
    parent = bench.shared.holds
    dry = dry_run(bench, request(parent, settings=AUTO, dry_run=True), lambda _: None, lambda: None)
    first, _ = trained(bench, request(parent, settings=AUTO))
    before = weights(bench)
    second, _ = trained(bench, request(parent, settings=AUTO))
    assert first.lr == second.lr == dry.lr and first.first_share == second.first_share == dry.first_share
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(bench).items())


def test_the_rate_does_not_depend_on_the_optimizers_state(bench: TrainerContext) -> None:
    parent, update = bench.shared.holds, request(bench.shared.holds, settings=AUTO)
    fresh, state = trained(bench, update)
    restore(bench.shared, bench.store, parent, clean=True, force=True)
    continued = bench.store.write(raw_weights(bench.shared), state, {"parent": parent}).id
    again, _ = trained(bench, replace(update, parent=continued))
    assert (fresh.optimizer, again.optimizer) == ("fresh", "continued")
    assert again.lr == fresh.lr and again.reports[0].metrics["lr"] == again.lr  # warm-up is over


def test_examples_without_weight_have_no_rate_and_change_nothing(bench: TrainerContext) -> None:
    before = weights(bench)
    rows = [replace(row, weight=0.0) for row in examples()]
    with pytest.raises(StepRefused, match=r"set training\.lr"):
        trained(bench, request(bench.shared.holds, settings=AUTO, examples=rows))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(bench).items())


# ---------------------------------------------------------------- what the service leaves open


def test_the_shipped_model_trains_as_its_recipe_tried_it() -> None:
    settings = trainer_settings(TrainingSettings(), shipped=True, pairs=72)
    assert {name: getattr(settings, name) for name in SHIPPED} == SHIPPED


@pytest.mark.parametrize(
    "pairs, epochs", [(1, MOST_EPOCHS), (24, MOST_EPOCHS), (48, 3), (72, 2), (128, 1), (1000, 1)]
)
def test_another_model_finds_its_rate_and_makes_some_sixteen_steps(pairs: int, epochs: int) -> None:
    settings = trainer_settings(TrainingSettings(), shipped=False, pairs=pairs)
    assert (settings.lr, settings.compute, settings.batch_size) == ("auto", "auto", 8)
    assert settings.epochs == epochs


@pytest.mark.parametrize("shipped", [True, False])
def test_the_users_numbers_win(shipped: bool) -> None:
    wanted = TrainingSettings(lr=2e-5, batch_size=3, epochs=5, compute="bfloat16")
    settings = trainer_settings(wanted, shipped=shipped, pairs=72)
    assert (settings.lr, settings.batch_size, settings.epochs) == (2e-5, 3, 5)
    assert settings.compute == "bfloat16"


# ---------------------------------------------------------------- the type


def gradients(model: Any, compute: Any, **changes: Any) -> tuple[float, list[torch.Tensor]]:
    """Return the loss and the gradients of examples that share contexts with each other."""
    rows = [replace(row, context=examples()[0].context) for row in examples(4)] + examples()[4:]
    model.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, "orpo", replace(SETTINGS, compute=compute, **changes), rows, train=True).value
    loss.backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return float(loss.detach()), found


@pytest.mark.parametrize(
    "changes", [{}, {"activation_checkpointing": True}, {"context_gradient": True}], ids=str
)
def test_in_bfloat16_loss_and_gradients_are_the_same_up_to_rounding_and_stay_float32(
    tiny: Any, changes: dict[str, bool]
) -> None:
    loss, exact = gradients(tiny, "weights", **changes)
    near, rounded = gradients(tiny, "bfloat16", **changes)
    assert near == pytest.approx(loss, rel=0.01) and near != loss
    for one, two in zip(exact, rounded, strict=True):
        assert two.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.99


def test_an_update_in_bfloat16_says_so_and_repeats_bit_for_bit(bench: TrainerContext) -> None:
    update = request(bench.shared.holds, objective="dpo", settings=replace(SETTINGS, compute="bfloat16"))
    result, _ = trained(bench, update)
    once = weights(bench)
    trained(bench, update)
    assert result.compute == "bfloat16"
    assert all(torch.equal(once[name], tensor) for name, tensor in weights(bench).items())
    plain, _ = trained(bench, replace(update, settings=SETTINGS))
    assert plain.compute == "weights"
    assert any(not torch.equal(once[name], tensor) for name, tensor in weights(bench).items())


def test_references_in_bfloat16_are_rounded_like_the_passes(bench: TrainerContext) -> None:
    rows = [replace(row, reference_chosen=-1e3, reference_rejected=-1e3) for row in examples()]
    settings = replace(SETTINGS, compute="bfloat16", batch_size=len(rows))
    update = request(bench.shared.holds, objective="dpo", settings=settings, examples=rows)
    (step,) = trained(bench, update)[0].reports
    assert step.metrics["chosen_reward"] == pytest.approx(0, abs=0.05)


def test_auto_is_bfloat16_for_float32_weights_on_a_processor_with_amx(tiny: Any) -> None:
    assert resolve("auto", tiny) == ("bfloat16" if has_amx() else "weights")
    assert resolve("weights", tiny) == "weights"
    assert resolve("bfloat16", tiny) == "bfloat16"
