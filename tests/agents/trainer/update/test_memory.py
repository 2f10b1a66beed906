"""The memory estimate against the peak of a real pass in a process of its own, and its refusals."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.trainer import memory_estimate
from agents.trainer.messages import Example, Settings
from agents.trainer.update import memory
from corpus.errors import GateRefused

PASS = """
import json, sys
from pathlib import Path
import torch
import transformers
from agents.trainer.messages import Example, Settings
from agents.trainer.scoring import prefix_scoring
from agents.trainer.update import memory

torch.set_num_threads(1)
config = transformers.Qwen3Config(
    vocab_size=4096, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
    num_key_value_heads=2, head_dim=32,
)
model = transformers.AutoModelForCausalLM.from_config(config).eval()


def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def step(rows, exact, again):
    sides = [[e.chosen for e in rows], [e.rejected for e in rows]]
    how = {"context_gradient": exact, "checkpointing": again}
    both = prefix_scoring.scores(model, [e.context for e in rows], sides, train=True, **how)
    (both[0].total.sum() - both[1].total.sum()).backward()


figures = {}
for case, (context, answer, count, exact, again) in json.loads(sys.argv[1]).items():
    rows = [Example(context=[i] * context, chosen=[1] * answer, rejected=[2] * answer) for i in range(count)]
    settings = Settings(lr=1.0, batch_size=count, context_gradient=exact, activation_checkpointing=again)
    needed = memory.require_memory(model, settings, rows, 0)
    step([Example(context=[1], chosen=[1], rejected=[1])], exact, again)  # loads what any first pass loads
    model.zero_grad(set_to_none=True)
    Path("/proc/self/clear_refs").write_text("5")
    before = kib("VmRSS")
    step(rows, exact, again)
    figures[case] = [needed.total, 1024 * (kib("VmHWM") - before)]
    model.zero_grad(set_to_none=True)
print(json.dumps(figures))
"""
CASES = {
    "frozen": (512, 32, 4, False, False),
    "frozen, computed again": (512, 128, 4, False, True),
    "mostly context": (2048, 16, 2, False, False),
    "mostly answers": (16, 128, 8, False, False),
    "exact": (512, 32, 4, True, False),
    "exact, computed again": (512, 32, 4, True, True),
}


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's record of a process's peak"
)
def test_the_estimate_is_between_the_measured_peak_and_twice_the_peak() -> None:
    # Freed blocks go back to the system, so that malloc's reserves are not measured.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PASS, json.dumps(CASES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for case, (estimated, used) in json.loads(done.stdout.splitlines()[-1]).items():
        assert used <= estimated <= 2 * used, (
            f"{case}: {estimated / used:.2f} of {used / memory_estimate.MIB:.0f} MiB"
        )


PER = memory_estimate.TokenCosts(past=10.0, state=7.0, kept=600.0, layers=6, hidden=8.0, logits=40.0)
ROWS = [Example(context=[1] * n, chosen=[2] * 10, rejected=[3] * 5) for n in (100, 30, 200)]


def total(settings: Settings, rows: list[Example] = ROWS) -> float:
    return memory_estimate.estimate(PER, settings, rows, [100, 300], 50).total


def test_smaller_passes_and_checkpointing_take_less_and_the_exact_gradient_more() -> None:
    plain = Settings(lr=1.0)
    assert total(dataclasses.replace(plain, micro_batch=1)) < total(dataclasses.replace(plain, micro_batch=2))
    assert total(dataclasses.replace(plain, micro_batch=2)) < total(plain)
    assert total(dataclasses.replace(plain, activation_checkpointing=True)) < total(plain)
    assert total(plain) < total(dataclasses.replace(plain, context_gradient=True))


def test_the_longest_examples_decide_whatever_the_order() -> None:
    one = Settings(lr=1.0, micro_batch=1)
    assert total(one) == total(one, ROWS[::-1]) == total(one, ROWS[2:])


def test_gradients_and_optimizer_state_are_counted_exactly() -> None:
    needed = memory_estimate.estimate(PER, Settings(lr=1.0), ROWS, [100, 300], 50)
    assert (needed.gradients, needed.optimizer) == (700, 50)  # the largest gradient twice: it may be tied


def test_an_update_that_cannot_fit_is_refused_with_the_numbers_and_what_to_change(tiny: Any) -> None:
    rows = [Example(context=[1] * 20, chosen=[2] * 4, rejected=[3] * 4)] * 4
    memory.require_memory(tiny, Settings(lr=1.0), rows, 0)
    with pytest.raises(
        GateRefused,
        match=r"needs \d+\.\d\d GiB .*optimizer 1073741824\.00 GiB.* [MG]iB are free; try a smaller",
    ):
        memory.require_memory(tiny, Settings(lr=1.0), rows, 2**60)


def test_free_memory_is_limited_by_the_machine_and_by_the_control_group(tmp_path: Path) -> None:
    total_kib = int(Path("/proc/meminfo").read_text().split()[1])
    assert 0 < memory.free_bytes(torch.device("cpu")) <= 1024 * total_kib
    assert memory_estimate.cgroup_allowance(tmp_path) == []
    for name, text in (("max", "1000\n"), ("current", "700\n"), ("stat", "anon 500\ninactive_file 200\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory_estimate.cgroup_allowance(tmp_path) == [500]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_estimate.cgroup_allowance(tmp_path) == []
