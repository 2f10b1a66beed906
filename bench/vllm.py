"""A real vLLM on the CPU, with and without training: throughput, time to the first token, a mix of steps.

    .venv-vllm/bin/python -m bench vllm [--write]
    .venv-vllm/bin/python -m bench.vllm [--seconds 6] [--rounds 3] [--json]

`vllm serve` (OMP_NUM_THREADS=1) with our plugin serves the embedded model, then a random Qwen3 of 38
million parameters, both in float32. 8 clients ask for 24 tokens each, streamed, one request after the
other, while nothing is trained and while the trainer (1 thread) makes updates of 60 steps in the weights
that are served; the two take turns. Then one update is made twice, which gives the same bits: once it waits
after each step, and the served log-probability of a text is put beside that of a Hugging Face model on the
same mapping; once it does not wait, and the server reads while it writes. Without vLLM it says so and
measures nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import torch

from agents.model.weights import views
from agents.trainer.messages import StepReport
from bench import _table
from bench._served import (
    Alongside,
    Load,
    alongside,
    for_seconds,
    larger_model,
    load_from_clients,
    sum_of,
    trainer,
)
from bench._table import Goal
from corpus.recipe import MODEL_DIR
from store.home import Home

WATCHED = 30
"""Steps of the update whose steps are watched."""
LR = 1e-4
"""Of the update whose steps are watched: large, so that a step is seen in the log-probability."""
TEXT = [7, 31, 40, 12, 99, 64, 23, 77, 150, 18, 201, 36, 5, 88, 120, 42, 61, 9, 33, 17, 240, 28, 73, 55]
"""Token ids of the text that is scored."""
Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement")
    parser.add_argument("--only", choices=("embedded", "larger"), help="only this model")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind, in turn")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if find_spec("vllm") is None:
        sys.stdout.write("vLLM is not installed here (make test-vllm does it): nothing was measured\n")
        return _table.finish({"vllm": None}, [], as_json=options.json)
    with tempfile.TemporaryDirectory() as folder:
        figures = {}
        if options.only != "larger":
            figures["embedded, 0.92 M"] = _measured(MODEL_DIR, 16, Path(folder) / "embedded", options)
        if options.only != "embedded":
            larger = larger_model(Path(folder) / "model")
            figures["random Qwen3, 38 M"] = _measured(larger, 2, Path(folder) / "larger", options)
    _show(figures)
    return _table.finish(figures, _goals(figures), as_json=options.json)


def _goals(figures: Figures) -> list[Goal]:
    goals = []
    for name, measured in figures.items():
        at_rest = max(difference for difference in measured["at_rest"])
        goals += [
            Goal(
                name=f"{name}: throughput while training / without",
                found=measured["ratio"],
                limit=0.6,
                at_least=True,
            ),
            Goal(name=f"{name}: errors", found=float(len(measured["errors"])), limit=0.0),
            Goal(
                name=f"{name}: served against the trainer's, at rest (nats/token)", found=at_rest, limit=1e-3
            ),
        ]
    return goals


def _home_of(model: Path, path: Path) -> Home:
    """Make a home of this model."""
    command = [str(Path(sys.executable).with_name("nightschool")), "--home", str(path), "init"]
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "NIGHTSCHOOL_MODEL__PATH": str(model)},
    )
    return Home(path)


def _measured(model: Path, pairs: int, place: Path, options: argparse.Namespace) -> Figures:
    """Return all figures of one model, with `pairs` in each step."""
    from tests.vllm.conftest import free_port, point_at, serving

    place.mkdir()
    home, port = _home_of(model, place / "home"), free_port()
    point_at(home, f"http://127.0.0.1:{port}", path=str(model))
    serve = serving(home, place / "vllm.log", model=model, port=port)
    with serve as vllm, trainer(home, model, place / "trainer", threads=options.threads) as socket:

        async def run() -> Figures:
            async with alongside(home, socket) as training:
                figures = await _in_turn(training, vllm.url, pairs, options)
                return figures | await _mixed(training, vllm.url, model, pairs)

        return anyio.run(run)


# ---------------------------------------------------------------- throughput


async def _in_turn(training: Alongside, url: str, pairs: int, options: argparse.Namespace) -> Figures:
    """Measure the same load without and with training, in turn."""
    update, steps_made = training.update(pairs=pairs), 0
    without: list[Load] = []
    meanwhile: list[Load] = []
    await load_from_clients(url, during=for_seconds(2))  # warms up
    for _ in range(options.rounds):
        without.append(await load_from_clients(url, during=for_seconds(options.seconds)))
        load, steps = await training.load_while_training(url, update, options.seconds)
        meanwhile.append(load)
        steps_made += steps
    ratios = [after.per_second / before.per_second for before, after in zip(without, meanwhile, strict=True)]
    return {
        "without": _medians(without),
        "training": _medians(meanwhile),
        "ratio": statistics.median(ratios),
        "steps_per_second": steps_made / sum(load.seconds for load in meanwhile),
        "errors": [error for load in [*without, *meanwhile] for error in load.errors],
    }


def _medians(loads: Sequence[Load]) -> Figures:
    """Return medians over the rounds, and the time to the first token over all answers."""
    first = [1e3 * seconds for load in loads for seconds in load.first_s]
    return {
        "answers": sum(load.answers for load in loads),
        "per_second": statistics.median(load.per_second for load in loads),
        "tokens_per_second": statistics.median(load.tokens / load.seconds for load in loads),
        "first_p50_ms": statistics.median(first),
        "first_p95_ms": statistics.quantiles(first, n=20)[18],
    }


# ---------------------------------------------------------------- what is read in mid-update


async def _mixed(training: Alongside, url: str, directory: Path, pairs: int) -> Figures:
    """Return the distance of the served weights from whole steps, in nats a token of the text."""
    model = views.build(training.shared, directory)
    whole, at_rest = await _at_rest(training, url, model, pairs)
    served = await _in_motion(training, url, pairs)
    scale = len(TEXT) - 1
    apart = [
        min(abs(value - whole[step]) for step in range(first, last + 2) if step in whole) / scale
        for value, first, last in served
        if first > 0 and (first in whole or last in whole)
    ]
    lag = [abs(value - whole[last]) / scale for value, _, last in served if last in whole]
    steps = [abs(whole[step + 1] - value) / scale for step, value in whole.items() if step + 1 in whole]
    return {"at_rest": [value / scale for value in at_rest], "apart": apart, "lag": lag, "step": steps}


async def _at_rest(
    training: Alongside, url: str, model: Any, pairs: int
) -> tuple[dict[int, float], list[float]]:
    """Return the text's log-probability after each step, and the distance of the served one."""
    whole: dict[int, float] = {0: _scored(model)}
    apart: list[float] = [abs(whole[0] - await _ask(url, "rest 0"))]
    begun = training.shared.version
    send, receive = anyio.create_memory_object_stream[StepReport](1000)

    async def watch() -> None:
        async for report in receive:
            await training.client.pause()
            step = training.shared.version - begun
            value = _scored(model)
            served = await _ask(url, f"rest {step}") if report.step % 5 == 0 else None
            if (
                step == report.step == training.shared.version - begun
            ):  # else it had gone on before it was told to wait
                whole[step] = value
                apart.extend([] if served is None else [abs(value - served)])
            await training.client.resume()

    async with anyio.create_task_group() as tasks, send:
        tasks.start_soon(watch)
        await training.client.train(
            training.update(pairs=pairs, steps=WATCHED, lr=LR, micro_batch=max(1, pairs // 4)),
            send.send_nowait,
        )
    await training.restored()
    return whole, apart


async def _in_motion(training: Alongside, url: str, pairs: int) -> list[tuple[float, int, int]]:
    """Repeat the update without a pause; return what was served, and the last whole steps around it."""
    served: list[tuple[float, int, int]] = []
    begun, over, version = anyio.Event(), False, training.shared.version

    async def ask() -> None:
        await begun.wait()
        while not over:
            first = training.shared.version - version
            value = await _ask(url, f"motion {len(served)}")
            served.append((value, first, training.shared.version - version))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await training.client.train(
            training.update(pairs=pairs, steps=WATCHED, lr=LR, micro_batch=max(1, pairs // 4)),
            lambda _: begun.set(),
        )
        over = True
    await training.restored()
    return [sample for sample in served if sample[2] <= WATCHED]


async def _ask(url: str, salt: str) -> float:
    return await anyio.to_thread.run_sync(sum_of, url, TEXT, salt)


@torch.no_grad()
def _scored(model: Any) -> float:
    """Return a function for the text's log-probability under the shared weights, the first token left out."""
    tokens = torch.tensor([TEXT])
    logits = torch.log_softmax(model(input_ids=tokens, use_cache=False).logits[0, :-1].float(), dim=-1)
    return float(logits.gather(-1, tokens[0, 1:, None]).sum())


# ---------------------------------------------------------------- figures


def _show(figures: Figures) -> None:
    heads = ["model", "", "answers", "answers/s", "tokens/s", "first token p50 (ms)", "p95 (ms)", "errors"]
    heads.append("steps/s")
    rows: list[list[object]] = []
    for name, measured in figures.items():
        for kind, steps in (("without", 0.0), ("training", measured["steps_per_second"])):
            load = measured[kind]
            speed = [load["answers"], load["per_second"], load["tokens_per_second"]]
            first = [load["first_p50_ms"], load["first_p95_ms"]]
            rows.append([name, kind, *speed, *first, len(measured["errors"]), steps])
    _table.show("8 clients, 24 tokens each, streamed", heads, rows)
    heads = ["model", "", "read", "mean (nats/token)", "max (nats/token)"]
    rows = []
    for name, measured in figures.items():
        for key, what in (
            ("at_rest", "between two steps: served against the trainer's"),
            ("step", "one step: how far the trainer's moves"),
            ("apart", "in motion: served against the nearest whole step it can have seen"),
            ("lag", "in motion: served against the step that was last when it was answered"),
        ):
            values = measured[key] or [float("nan")]
            rows.append([name, what, len(measured[key]), statistics.mean(values), max(values)])
    _table.show(f"the log-probability of a text while {WATCHED} steps are made", heads, rows)
    if errors := sorted({error for measured in figures.values() for error in measured["errors"]}):
        sys.stdout.write(json.dumps(errors) + "\n")


if __name__ == "__main__":
    sys.exit(main())
