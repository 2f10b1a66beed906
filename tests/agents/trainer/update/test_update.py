"""An update in this process: its dry run, and steps in several passes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainer_home import SETTINGS, examples, request

from agents.trainer.messages import StepReport, TrainRequest
from agents.trainer.update.training import TrainerContext, dry_run, passes, run_update
from corpus.errors import StepRefused, TrainerFault, UpdateCancelled


def go_on() -> None:
    """Never pause or cancel."""


def steps_of(bench: TrainerContext, update: TrainRequest) -> list[StepReport]:
    """Run this update; return its steps."""
    return list(run_update(bench, update, lambda _: None, go_on)[0].reports)


def on_disk(bench: TrainerContext) -> dict[Path, bytes]:
    root = bench.shared.path.parent.parent
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def without_speed(step: StepReport) -> dict[str, float]:
    return {name: value for name, value in step.metrics.items() if name != "tokens_per_second"}


# ---------------------------------------------------------------- dry run


@pytest.mark.parametrize("objective", ["orpo", "dpo", "sft"])
def test_a_dry_run_reports_every_step_and_changes_no_byte(bench: TrainerContext, objective: str) -> None:
    dry = request(bench.shared.holds, objective=objective, dry_run=True, settings=replace(SETTINGS, epochs=2))
    before, reported = on_disk(bench), []
    result = dry_run(bench, dry, reported.append, go_on)
    assert on_disk(bench) == before  # the mapping is a file: weights, version, dirty flag and what it holds
    assert all(parameter.grad is None for parameter in bench.model.parameters())
    assert list(result.reports) == reported and [step.step for step in reported] == [1, 2, 3, 4, 5, 6]
    assert all(step.metrics["grad_norm"] > 0 and step.metrics["update_ratio"] > 0 for step in reported)
    # Every step is at the parent's weights: the second pass over the same examples finds the same loss.
    losses = [step.metrics["loss"] * size for step, size in zip(reported, (4, 4, 2, 4, 4, 2), strict=True)]
    assert sum(losses[:3]) == pytest.approx(sum(losses[3:]), rel=1e-5)


def test_the_first_step_of_a_dry_run_is_the_first_step_of_the_update(bench: TrainerContext) -> None:
    update = request(bench.shared.holds)
    dry = dry_run(bench, replace(update, dry_run=True), lambda _: None, go_on)
    steps = steps_of(bench, update)
    assert without_speed(dry.reports[0]) == without_speed(steps[0])
    assert without_speed(dry.reports[1]) != without_speed(steps[1])


def test_a_dry_run_needs_the_parents_weights_and_stops_at_a_refused_step(
    bench: TrainerContext,
) -> None:
    parent = bench.shared.holds
    with pytest.raises(StepRefused, match="over norm_cap"):
        dry_run(bench, request(parent, dry_run=True, settings=replace(SETTINGS, norm_cap=1e-6)), print, go_on)
    steps_of(bench, request(parent))
    before = on_disk(bench)
    with pytest.raises(TrainerFault, match="a dry run changes nothing"):
        dry_run(bench, request(parent, dry_run=True), print, go_on)
    assert on_disk(bench) == before


# ---------------------------------------------------------------- passes


@pytest.mark.parametrize("objective", ["orpo", "dpo", "dpop", "simpo", "kto", "sft"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_step_in_several_passes_is_the_whole_step_up_to_rounding(
    bench: TrainerContext, objective: str, size: int
) -> None:
    parent = bench.shared.holds
    plain = replace(SETTINGS, batch_size=10, lr=1e-3)
    # At the parent itself DPO's margins are nothing, and rounding would say which is above it.
    rows = [
        replace(row, reference_chosen=-40.0 + 3 * i, reference_rejected=-30.0)
        for i, row in enumerate(examples())
    ]
    results = []
    for settings in (plain, replace(plain, micro_batch=size)):
        steps = steps_of(bench, request(parent, objective=objective, settings=settings, examples=rows))
        results.append((without_speed(steps[0]), {n: t.clone() for n, t in bench.shared.tensors.items()}))
    (whole, weights), (passes, others) = results
    assert passes == pytest.approx(whole, rel=1e-4, abs=1e-6)
    for name, tensor in weights.items():
        assert torch.allclose(tensor, others[name], atol=1e-5), name


def test_the_passes_of_a_step_have_similar_lengths_and_leave_no_example_out() -> None:
    rows = examples()
    assert passes(rows, 0) == passes(rows, 10) == [rows]
    actual = passes(rows, 4)
    assert [len(part) for part in actual] == [4, 4, 2]
    lengths = [len(row.context) + max(len(row.chosen), len(row.rejected)) for part in actual for row in part]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]
    assert sorted(row.context for part in actual for row in part) == sorted(row.context for row in rows)


def test_an_update_that_is_cancelled_between_two_passes_leaves_the_parents_weights(
    bench: TrainerContext,
) -> None:
    parent, before = bench.shared.holds, {n: t.clone() for n, t in bench.shared.tensors.items()}
    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 7:  # in the second step, after one of its passes
            assert bench.shared.dirty
            raise UpdateCancelled("enough")

    with pytest.raises(UpdateCancelled):
        run_update(bench, request(parent, settings=replace(SETTINGS, micro_batch=1)), lambda _: None, check)
    assert bench.shared.holds == parent and not bench.shared.dirty
    assert all(torch.equal(before[name], tensor) for name, tensor in bench.shared.tensors.items())
