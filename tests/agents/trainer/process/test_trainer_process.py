"""The trainer process over its real socket."""

import os
import select
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import anyio
import pytest
import torch
from trainer_home import FIRST, LONG, SETTINGS, Home, examples, request

from agents.model.weights.header import writer_lock
from agents.model.weights.snapshot import raw_weights
from agents.trainer.client import TrainerClient
from agents.trainer.messages import StepReport
from agents.trainer.process.main import NICE
from agents.trainer.scoring import residual_stream as stream
from corpus.errors import StepRefused, TrainerFault
from store.checkpoints.store import CheckpointStore


def test_an_update_changes_the_served_weights_and_a_rollback_brings_them_back_bit_for_bit(home: Home) -> None:
    before = {name: tensor.clone() for name, tensor in home.shared.tensors.items()}
    version = home.shared.version
    steps: list[int] = []
    result = home.ask("train", request(home.first), lambda report: steps.append(report.step))
    assert steps == [1, 2, 3] and result.steps == 3 and result.optimizer == "fresh"
    assert home.shared.dirty and home.shared.holds == "" and home.shared.version == version + 3
    assert any(not torch.equal(before[name], tensor) for name, tensor in home.shared.tensors.items())
    home.ask("rollback", home.first, settled=True)
    assert not home.shared.dirty and home.shared.holds == home.first
    assert all(torch.equal(before[name], tensor) for name, tensor in home.shared.tensors.items())


def test_training_on_pairs_raises_the_chosen_answers_over_the_rejected(home: Home) -> None:
    many = request(home.first, settings=replace(SETTINGS, epochs=12))
    result = home.ask("train", many)
    first, last = result.reports[0].metrics, result.reports[-1].metrics
    assert last["margin"] > first["margin"] and last["chosen_logprob"] > first["chosen_logprob"]
    assert set(last) == {
        *("loss", "chosen_logprob", "rejected_logprob", "chosen_reward", "rejected_reward", "margin"),
        *(
            "accuracy",
            "log_odds_ratio",
            "lr",
            "grad_norm",
            "update_norm",
            "update_ratio",
            "limiter_divisor",
            "tokens_per_second",
        ),
    }


@pytest.mark.parametrize("objective", ["sft", "dpo", "dpop", "simpo", "kto"])
def test_the_other_objectives_run(home: Home, objective: str) -> None:
    result = home.ask("train", request(home.first, objective=objective, settings=replace(SETTINGS, epochs=3)))
    assert result.reports[-1].metrics["loss"] < result.reports[0].metrics["loss"]
    if objective in (
        "dpo",
        "dpop",
        "kto",
    ):  # at the reference itself the margin is nothing and the loss is log 2
        assert result.reports[0].metrics["margin"] == pytest.approx(0, abs=1e-5)


def test_a_step_over_the_cap_is_refused_and_the_parent_is_restored(home: Home) -> None:
    before = {name: tensor.clone() for name, tensor in home.shared.tensors.items()}
    for settings in (replace(SETTINGS, norm_cap=1e-6), replace(SETTINGS, lr=1e30, norm_cap=1e38)):
        with pytest.raises(StepRefused, match="nothing was kept"):
            home.ask("train", request(home.first, settings=settings))
        assert all(torch.equal(before[name], tensor) for name, tensor in home.shared.tensors.items())
        assert home.shared.holds == home.first and not home.shared.dirty


def test_a_repeated_request_is_answered_and_not_executed_again(home: Home) -> None:
    asked = request(home.first)
    result = home.ask("train", asked, request_id="night-1")
    version = home.shared.version
    assert home.ask("train", asked, request_id="night-1") == result
    assert home.shared.version == version
    with pytest.raises(TrainerFault, match="used for another request"):
        home.ask("train", replace(asked, seed=8), request_id="night-1")
    home.ask("rollback", home.first, settled=True)  # what was trained is gone: the old answer would be a lie
    home.ask("train", asked, request_id="night-1")
    assert home.shared.version > version + 1


def test_status_is_answered_while_an_update_runs(home: Home) -> None:
    seen = []

    async def conversation(client: TrainerClient) -> None:
        reached = anyio.Event()
        long = request(home.first, settings=replace(SETTINGS, epochs=20))

        async def train(tasks: Any) -> None:
            await client.train(long, lambda written: reached.set())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(train, tasks)
            await reached.wait()
            seen.append(await client.status())

    home.call(conversation)
    assert seen[0].doing == "train" and seen[0].step >= 1 and seen[0].steps == 60 and seen[0].dirty


def test_the_trainer_yields_the_processor_to_others(home: Home) -> None:
    pid = home.ask("status").pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
    assert os.getsid(pid) == os.getsid(0)


def test_only_the_checkpoint_in_the_shared_weights_can_be_finalized(home: Home) -> None:
    home.ask("train", request(home.first))
    with pytest.raises(TrainerFault, match="an update that is not a checkpoint yet"):
        home.ask("settle", home.first)
    written = home.ask("checkpoint", home.first, {"cursor": 9, "seed": 7})
    assert home.shared.dirty and home.shared.holds == written.id
    home.ask("settle", written.id)
    assert not home.shared.dirty
    assert home.store.verify([home.first, written.id]) == []
    assert home.store.manifest(written.id).weights == written.weights_sha256


def test_a_checkpoint_needs_an_update_of_its_parent(home: Home) -> None:
    with pytest.raises(TrainerFault, match="train before"):
        home.ask("checkpoint", home.first, {})
    home.ask("train", request(home.first))
    with pytest.raises(TrainerFault, match="mid-update"):
        home.ask("checkpoint", None, FIRST)


def test_the_optimizer_continues_from_the_parent_and_starts_fresh_at_another_rank(home: Home) -> None:
    home.ask("train", request(home.first))
    second = home.ask("checkpoint", home.first, {"cursor": 1})
    assert home.ask("train", request(second.id)).optimizer == "continued"
    assert home.ask("train", request(second.id, settings=replace(SETTINGS, rank=4))).optimizer == "fresh"


def test_logprobs_and_activations_match_a_plain_forward_pass(home: Home, tiny: Any) -> None:
    items = [(row.context, row.chosen) for row in examples(20)]
    actual = home.ask("logprobs", items)
    texts = [[*context, *chosen] for context, chosen in items]
    activations = home.ask("activations", texts, [1, 0])
    for i, (context, chosen) in enumerate(items):
        with torch.no_grad():
            output = tiny(torch.tensor([texts[i]]), output_hidden_states=True)
        each = torch.log_softmax(output.logits[0], -1)
        total = sum(float(each[len(context) - 1 + j, token]) for j, token in enumerate(chosen))
        assert actual[i].tokens == len(chosen) and actual[i].total == pytest.approx(total, abs=1e-4)
        expected = output.hidden_states[1][0, -1]  # after layer 0
        assert torch.allclose(torch.tensor(activations.vector(i, 0)), expected, atol=1e-5)


def test_activations_include_the_requested_heads(home: Home, tiny: Any) -> None:
    texts = [[5, 6, 7], [8], [9, 10]]
    actual = home.ask("activations", texts, [1], heads=[1, 0])
    wanted = stream.read(tiny, texts, [1], [1, 0])
    assert (actual.texts, actual.layers, actual.skipped) == (3, (1,), {})
    for layer, heads in actual.heads.items():
        values = torch.frombuffer(bytearray(heads.data), dtype=torch.float32).view(
            3, heads.heads, heads.head_dim
        )
        assert torch.allclose(values, wanted.heads[layer], atol=1e-5)
    assert set(actual.heads) == {0, 1}


def test_a_missing_trainer_is_an_error_at_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    nowhere = tmp_path_factory.mktemp("nobody")

    async def ask() -> None:
        async with TrainerClient(nowhere, patience=0.1, beat=0.05) as client:
            await client.status()

    with pytest.raises(TrainerFault, match="no sign of life"):
        anyio.run(ask)


PARENT = """
import subprocess, sys
print(subprocess.Popen(sys.argv[1:]).pid, flush=True)
sys.stdin.read()
"""


def interrupted(home: Home, interrupt: Callable[[], None]) -> str:
    """Begin a long update and interrupt it at its first step; return the error of the trainer's client."""
    steps: list[int] = []

    def on_step(report: StepReport) -> None:
        steps.append(report.step)
        if len(steps) == 1:
            interrupt()

    with pytest.raises(TrainerFault) as fault:
        home.ask("train", request(home.first, settings=LONG), on_step)
    return str(fault.value)


def test_a_night_in_other_processes_with_a_kill_and_a_stop_ends_with_the_same_checkpoint(
    running: Home, make_home: Callable[[], Path], start: Callable[..., Any]
) -> None:
    running.ask("rollback", running.first, settled=True)
    running.ask("train", request(running.first))
    expected = running.ask("checkpoint", running.first, {"cursor": 2, "seed": 7})

    home = Home(make_home())
    parent = start(home.path, through=PARENT)
    trainer = os.pidfd_open(int(parent.stdout.readline()))
    home.first = home.ask("checkpoint", None, FIRST).id
    home.ask("settle", home.first)
    assert home.first == running.first
    before = {name: tensor.clone() for name, tensor in home.shared.tensors.items()}
    successors: list[Any] = []

    def kill() -> None:  # the trainer dies with its parent, in mid-update
        parent.kill()
        assert select.select([trainer], [], [], 30)[0]
        os.close(trainer)
        assert home.shared.dirty
        successors.append(start(home.path, "--active", home.first))

    assert "was restarted" in interrupted(home, kill)
    status = home.ask("status")
    assert not status.dirty and status.holds == home.first and status.doing == "idle"
    assert all(torch.equal(before[name], tensor) for name, tensor in home.shared.tensors.items())

    home.ask("train", request(home.first))
    assert home.ask("checkpoint", home.first, {"cursor": 2, "seed": 7}) == expected
    home.ask("rollback", home.first, settled=True)

    (successor,) = successors
    assert "is stopping" in interrupted(home, lambda: successor.send_signal(signal.SIGTERM))
    assert successor.wait(30) == 0 and successor.stdout.read() == ""
    assert home.shared.holds == home.first and not home.shared.dirty
    assert all(torch.equal(before[name], tensor) for name, tensor in home.shared.tensors.items())


def test_a_trainer_without_shared_weights_ends_with_the_reason(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Any]
) -> None:
    home = tmp_path_factory.mktemp("empty")
    (home / "run").mkdir(mode=0o700)
    child: subprocess.Popen[str] = start(home)
    assert child.wait(60) == 12


def test_a_trainer_waits_until_the_previous_one_releases_the_shared_weights(
    make_home: Callable[[], Path], start: Callable[..., Any]
) -> None:
    home = Home(make_home())
    with writer_lock(home.shared.path, wait=False):
        home.first = (
            CheckpointStore(home.path / "checkpoints").write(raw_weights(home.shared), None, FIRST).id
        )
        home.shared.dirty = True
        child = start(home.path, "--active", home.first)
        until(lambda: "another process writes" in child.log_file.read_text() or child.poll() is not None)
        assert home.shared.dirty and home.shared.holds == ""
    assert home.ask("status").holds == home.first
    assert not home.shared.dirty


def until(true: Callable[[], bool]) -> None:
    began = monotonic()
    while not true():
        assert monotonic() - began < 60
        sleep(0.02)
