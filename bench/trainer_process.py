"""The trainer as a process: its response time, the detection of its death, and malformed messages.

    python -m bench.trainer_process [--asks 2000] [--messages 100000] [--kills 3] [--json]

A service with the embedded model, its real model server and its real trainer (1 thread each). `status` is
asked in three ways that take turns: over the client's kept socket, as the service does; over a socket made
for each question, the rival, as the service did before; and from a plain blocking socket. Then the trainer
is killed and started again, and malformed messages are sent, `AT_ONCE` in flight. Knows no training speed.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import torch
import zmq

from agents.model import protocol
from agents.model.protocol import RpcRequest
from agents.trainer.client import TrainerClient
from agents.trainer.messages import Example, Settings, TrainRequest
from bench import _table
from bench._malformed import messages
from bench._table import Goal
from corpus.errors import UpdateCancelled
from loop.cli.show.console import set_up_logs
from loop.config import load_settings
from loop.engine.service import Service, opened
from loop.operations import init
from store import queries
from store.home import Home

KEPT = "the client, one kept socket"
AT_ONCE = 100
"""Messages on their way at a time."""
STEPS = 1_000_000
"""Of the update that runs meanwhile: it is cancelled long before."""
Ask = Callable[[], Awaitable[object]]
Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--asks", type=int, default=2000, help="questions in each way")
    parser.add_argument("--messages", type=int, default=100_000, help="malformed messages")
    parser.add_argument("--kills", type=int, default=3, help="at most 5 within a minute")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    set_up_logs()  # to stderr: what is printed here are the tables
    with tempfile.TemporaryDirectory() as folder:
        figures = anyio.run(measured, Path(folder) / "home", options)
    _show(figures)
    noticed = max(kill["noticed_ms"] for kill in figures["kills"])
    wrong = figures["malformed"]["unforeseen"] + (not figures["malformed"]["unharmed"])
    goals = [
        Goal(name="status p50 (ms), idle", found=figures["idle"]["ways"][KEPT]["p50_ms"], limit=1.0),
        Goal(
            name="status p50 (ms), training", found=figures["training"]["ways"][KEPT]["p50_ms"], limit=100.0
        ),
        Goal(name="longest until a kill is noticed (ms)", found=noticed, limit=1000.0),
        Goal(name="harm of malformed messages", found=float(wrong), limit=0.0),
    ]
    return _table.finish(figures, goals, as_json=options.json)


async def measured(place: Path, options: argparse.Namespace) -> Figures:
    """Return all figures, from a service in this process."""
    await init.init(place, demo=False)
    home = Home(place)
    async with opened(home, load_settings(home.config_file)) as service, anyio.create_task_group() as tasks:
        await tasks.start(service.processes.run)
        parent = (await service.ledger.read(queries.active)).id
        figures: Figures = {}
        figures["idle"] = await _asked(service, options.asks)
        figures["training"] = await _while_training(service, parent, options.asks)
        figures["kills"] = [await _killed(service) for _ in range(options.kills)]
        figures["malformed"] = await _malformed(service, options.messages)
        figures["after"] = await _update(service, parent)
        tasks.cancel_scope.cancel()
    return figures


# ---------------------------------------------------------------- questions


async def _asked(service: Service, count: int) -> Figures:
    """Return the milliseconds of a `status` for each way to request it; the ways take turns."""
    pid = (await service.trainer.status()).pid
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.linger = 0
        plain.connect(_address(service))
        asks: dict[str, Ask] = {
            KEPT: service.trainer.status,
            "a socket for each question (before)": partial(_over_a_new_socket, service),
            "a plain blocking socket": partial(_plainly, plain),
        }
        taken: dict[str, list[float]] = {name: [] for name in asks}
        used = _processor_s(pid)
        for number in range(count + 50):
            for name, ask in asks.items():
                began = time.perf_counter()
                await ask()
                if number >= 50:  # the first ones warm up
                    taken[name].append(1000 * (time.perf_counter() - began))
        used = _processor_s(pid) - used
    ways: Figures = {name: _spread(values) for name, values in taken.items()}
    return {"ways": ways, "processor_ms": 1000 * used / (count + 50) / len(asks)}


async def _over_a_new_socket(service: Service) -> None:
    async with TrainerClient(service.home.run_dir) as client:
        await client.status()


async def _plainly(socket: "zmq.Socket[bytes]") -> None:
    socket.send_multipart(protocol.pack_request(RpcRequest(id="plain", verb="status", body={})))
    protocol.unpack_reply(socket.recv_multipart())


async def _while_training(service: Service, parent: str, count: int) -> Figures:
    """Return the same figures while an update runs."""
    begun = anyio.Event()

    async def train() -> None:
        try:
            await service.trainer.train(_long(parent, STEPS), lambda _: begun.set())
        except UpdateCancelled:
            return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(train)
        await begun.wait()
        first, began = (await service.trainer.status()).step, time.perf_counter()
        figures = await _asked(service, count)
        steps, seconds = (await service.trainer.status()).step - first, time.perf_counter() - began
        await service.trainer.cancel("measured")
    await service.trainer.rollback(parent, settled=True)
    return {**figures, "step_ms": 1000 * seconds / max(steps, 1)}


def _long(parent: str, steps: int) -> TrainRequest:
    """Return an update of so many steps, with 16 pairs of 64 tokens each."""
    draw = random.Random(1)

    def text(length: int) -> list[int]:
        return [draw.randrange(3, 256) for _ in range(length)]

    rows = [Example(context=text(48), chosen=text(16), rejected=text(16)) for _ in range(16)]
    settings = Settings(lr=1e-5, batch_size=16, epochs=steps, norm_cap=1.0)
    return TrainRequest(objective="orpo", settings=settings, seed=1, parent=parent, examples=rows)


# ---------------------------------------------------------------- deaths and nonsense


async def _killed(service: Service) -> Figures:
    """Return the milliseconds until a SIGKILL is noticed, and the seconds until the trainer is ready."""
    pid, lost = (await service.trainer.status()).pid, service.processes.lost
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    await lost.wait()
    noticed = time.perf_counter()
    await service.processes.ready.wait()
    return {"noticed_ms": 1000 * (noticed - began), "restarted_s": time.perf_counter() - noticed}


async def _malformed(service: Service, count: int) -> Figures:
    """Return messages a second, and how they were answered."""
    before = await service.trainer.status()
    memory = _resident(before.pid)
    figures: Figures = await anyio.to_thread.run_sync(_send, _address(service), count)
    after = await service.trainer.status()
    log = (service.home.path / "logs" / "trainer.log").read_text()
    return {
        **figures,
        "unforeseen": log.count("Traceback"),
        "grown_mb": (_resident(before.pid) - memory) / 1e6,
        "unharmed": after == before,  # the same process, idle, with the same weights
    }


def _send(address: str, count: int) -> Figures:
    kinds = {"error": 0, "result": 0}
    seconds = 0.0
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)
        drawn = messages(count, seed=11)
        for first in range(0, count, AT_ONCE):
            part = [next(drawn) for _ in range(min(AT_ONCE, count - first))]
            began = time.perf_counter()
            for frames in part:
                socket.send_multipart(frames)
            for _ in part:
                if not socket.poll(20_000):
                    raise SystemExit(f"no reply within 20 s after {first} messages")
                kinds[json.loads(socket.recv_multipart()[0])["kind"]] += 1
            seconds += time.perf_counter() - began
    return {"messages": count, "per_second": count / seconds, "answered": kinds}


async def _update(service: Service, parent: str) -> Figures:
    """Run a real update; return its steps."""
    result = await service.trainer.train(_long(parent, 3))
    await service.trainer.rollback(parent, settled=True)
    return {"steps": result.steps}


# ---------------------------------------------------------------- figures


def _address(service: Service) -> str:
    return protocol.address(service.home.run_dir)


def _spread(values: list[float]) -> Figures:
    cuts = statistics.quantiles(values, n=100)
    return {"p50_ms": statistics.median(values), "p99_ms": cuts[98], "max_ms": max(values)}


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _show(figures: Figures) -> None:
    heads = ("status", "p50 (ms)", "p99 (ms)", "longest (ms)")
    for when in ("idle", "training"):
        figure = figures[when]
        more = (
            f"{figure['step_ms']:.1f} ms a step"
            if "step_ms" in figure
            else f"{figure['processor_ms']:.2f} ms of CPU each"
        )
        rows = [(name, row["p50_ms"], row["p99_ms"], row["max_ms"]) for name, row in figure["ways"].items()]
        _table.show(f"status while {when}, {more}", heads, rows)
    kills = [(f"{kill['noticed_ms']:.1f} ms", f"{kill['restarted_s']:.2f} s") for kill in figures["kills"]]
    _table.show("SIGKILL of the trainer", ("noticed after", "and ready again after"), kills)
    figure = figures["malformed"]
    answered = figure["answered"]
    row = (figure["messages"], figure["per_second"], answered["error"], answered["result"])
    outcome = (figure["unforeseen"], figure["grown_mb"], figure["unharmed"], figures["after"]["steps"])
    heads = (
        "messages",
        "a second",
        "errors",
        "results",
        "unforeseen",
        "grown (MB)",
        "unharmed",
        "steps afterwards",
    )
    _table.show("malformed messages", heads, [(*row, *outcome)])


if __name__ == "__main__":
    sys.exit(main())
