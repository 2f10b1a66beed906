"""The cost of readout and steering in a real vLLM: tokens a second, CPU time a token, the hooks' share.

    .venv-vllm/bin/python -m bench readout_at_decode
    .venv-vllm/bin/python -m bench.readout_at_decode [--seconds 6] [--rounds 5]

`vllm serve --enforce-eager` (OMP_NUM_THREADS=1) with our plugin serves the embedded model, then a random
Qwen3 of 38 million parameters, in float32. 8 clients ask for 64 tokens each, one request after the other.
In one server the states take turns: no vectors (nothing is read), vectors of 16 concepts at one layer
(everything is), and the same with every other client steered. A second server has the readout off: without
vectors, and with the hook that steering left there. CPU time is that of the whole vLLM. On a machine with
busy neighbours both differ between rounds by more than what is looked for, so the ratios come with their
range: where it is wide, they say nothing, and a goal met or missed neither. Then the hooks alone are timed
on batches of 8 and 256 answers, also for a hidden size of 4096. Without vLLM it says so and measures
nothing.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import torch

from agents.model.settings import ModelSettings
from agents.model.steering.concept_vectors import CARD, TENSORS, ConceptVectors, write
from agents.model.vllm.config import PluginConfig
from agents.model.vllm.readout.hooks import Hooks
from agents.model.vllm.readout.publisher import Publisher
from bench import _table
from bench._served import larger_model
from bench._table import Goal
from corpus.recipe import MODEL_DIR
from store.home import Home, create

CLIENTS, TOKENS, CONCEPTS = 8, 64, 16
LAYER = {"embedded, 0.92 M": 2, "random Qwen3, 38 M": 7}
HIDDEN = {"embedded, 0.92 M": 128, "random Qwen3, 38 M": 512}
MOST = 1.10
"""The goal: CPU time a token of an answer that is read, against one that is not."""
IDLE = 1.03
"""The same for a hook with nothing to do; the noise of these machines is of that size."""
Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each state, in turn")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if find_spec("vllm") is None:
        sys.stdout.write("vLLM is not installed here (make test-vllm does it): nothing was measured\n")
        return _table.finish({"vllm": None}, [], as_json=options.json)
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {"embedded, 0.92 M": MODEL_DIR, "random Qwen3, 38 M": larger_model(Path(folder) / "model")}
        for number, (name, model) in enumerate(models.items()):
            figures[name] = {
                **_served(name, model, Path(folder) / f"on{number}", True, options),
                **_served(name, model, Path(folder) / f"off{number}", False, options),
            }
        alone = {
            f"{batch} answers, hidden size {hidden}": _alone(hidden, batch)
            for batch in (8, 256)
            for hidden in (128, 4096)
        }
    _show(figures, alone)
    return _table.finish({"served": figures, "alone": alone}, _goals(figures), as_json=options.json)


def _goals(figures: Figures) -> list[Goal]:
    goals = []
    for name, states in figures.items():
        idle = statistics.median(states["off, idle hook"]["ratios"])
        read = statistics.median(states["on, reading"]["ratios"])
        goals += [
            Goal(name=f"{name}: CPU time of a token, reading / not", found=read, limit=MOST),
            Goal(name=f"{name}: CPU time of a token, idle hook / none", found=idle, limit=IDLE),
        ]
    return goals


def _vectors(hidden: int, layer: int) -> ConceptVectors:
    values = np.random.default_rng(0).normal(size=(1, CONCEPTS, hidden)).astype(np.float32)
    names = tuple(f"concept{number}" for number in range(CONCEPTS))
    return ConceptVectors(
        concepts=names, layers=(layer,), values=values / float(np.sqrt(hidden)), weights_version="bench"
    )


# ---------------------------------------------------------------- a whole server


def _served(name: str, model: Path, place: Path, readout: bool, options: argparse.Namespace) -> Figures:
    """Measure the states of one server, in turn."""
    from tests.vllm.conftest import free_port, point_at, serving

    place.mkdir()
    home, port = create(place / "home"), free_port()  # with no ledger, which would be another model's
    point_at(home, f"http://127.0.0.1:{port}", readout=readout)
    vectors = _vectors(HIDDEN[name], LAYER[name])
    states = ["on, no vectors", "on, reading", "on, half steered"] if readout else ["off", "off, idle hook"]
    measurements: dict[str, list[tuple[float, float]]] = {state: [] for state in states}
    with serving(home, place / "vllm.log", model=model, port=port) as vllm:
        _load(vllm.url, 5.0, steered=False)
        for turn in range(options.rounds):
            first = turn % len(states)
            for state in (*states[first:], *states[:first]):  # each comes first as often as the others
                _bring_about(state, home, vectors, vllm.url)
                measurements[state].append(
                    _measured(vllm, options.seconds, steered=state == "on, half steered")
                )
    base = measurements[states[0]]
    return {
        state: {
            "tokens_s": statistics.median(rate for rate, _ in each),
            "cpu_us": statistics.median(cpu for _, cpu in each),
            "ratios": sorted(cpu / before for (_, cpu), (_, before) in zip(each, base, strict=True)),
        }
        for state, each in measurements.items()
    }


def _bring_about(state: str, home: Home, vectors: ConceptVectors, url: str) -> None:
    """Make the server see vectors, or none."""
    directory = home.path / "readout"
    if state in ("on, no vectors", "off"):
        for file in (CARD, TENSORS):
            (directory / file).unlink(missing_ok=True)
    else:
        write(directory, vectors)
    time.sleep(1.2)  # it looks once a second
    body = {"prompt": "hi", "max_tokens": 2, "steer": {"concept0": 1e-3}}
    httpx.post(
        f"{url}/v1/completions", json=body, timeout=60, trust_env=False
    )  # has a server that is off look too


def _measured(vllm: Any, seconds: float, *, steered: bool) -> tuple[float, float]:
    """Return (tokens a second, microseconds of CPU a token) of the whole server."""
    before, began = _cpu_s(vllm.process.pid), time.monotonic()
    tokens = _load(vllm.url, seconds, steered=steered)
    return tokens / (time.monotonic() - began), 1e6 * (_cpu_s(vllm.process.pid) - before) / tokens


def _load(url: str, seconds: float, *, steered: bool) -> int:
    """Return the number of tokens that the clients received."""
    until = time.monotonic() + seconds

    def client(number: int) -> int:
        tokens = 0
        body: dict[str, Any] = {"prompt": f"Client {number} asks.", "max_tokens": TOKENS, "ignore_eos": True}
        if steered and number % 2:
            body["steer"] = {"concept1": 0.5}
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            while time.monotonic() < until:
                tokens += (
                    http.post("/v1/completions", json=body)
                    .raise_for_status()
                    .json()["usage"]["completion_tokens"]
                )
        return tokens

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(client, range(CLIENTS)))


def _cpu_s(group: int) -> float:
    """Return the CPU seconds of all processes of this group so far."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- the hooks alone


def _alone(hidden: int, batch: int) -> Figures:
    """Return the microseconds that the hooks add to a pass over `batch` answers, reading and idle."""
    config = SimpleNamespace(
        model_config=SimpleNamespace(
            hf_text_config=SimpleNamespace(num_hidden_layers=1), get_hidden_size=lambda: hidden, model=""
        )
    )
    runner = SimpleNamespace(
        query_start_loc=SimpleNamespace(np=np.arange(batch + 1)),
        input_batch=SimpleNamespace(
            req_ids=[f"chatcmpl-{number:032x}-{number:08x}" for number in range(batch)],
            num_computed_tokens_cpu=np.full(batch, 100),
            num_prompt_tokens=np.full(batch, 50),
        ),
    )
    parts = torch.randn(batch, hidden), torch.randn(batch, hidden)
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "readout", _vectors(hidden, 0))
        publisher = Publisher(Path(folder) / "readings")
        for name, reads in (("reading", True), ("idle", False)):
            layer = torch.nn.Linear(1, 1)
            layer.forward = lambda _: parts  # type: ignore[method-assign,assignment]
            model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer])})
            settings = ModelSettings(url="http://127.0.0.1:8000", readout=reads)
            hooks = Hooks(
                model, config, PluginConfig(home=Home(Path(folder)), model=settings, database=""), publisher
            )
            figures[f"{name}_us"] = _per_pass(hooks, runner, layer) - _bare(layer)
        publisher.close()
    return figures


@torch.inference_mode()
def _per_pass(hooks: Hooks, runner: Any, layer: Any, passes: int = 2000) -> float:
    took = []
    for _ in range(passes):
        began = time.perf_counter()
        hooks.before_pass(runner)
        layer(None)
        hooks.after_pass()
        took.append(time.perf_counter() - began)
    return 1e6 * statistics.median(took)


def _bare(layer: Any, passes: int = 2000) -> float:
    """Return the time of a pass without any hooks."""
    took = []
    for _ in range(passes):
        began = time.perf_counter()
        layer.forward(None)
        took.append(time.perf_counter() - began)
    return 1e6 * statistics.median(took)


def _show(figures: Figures, alone: Figures) -> None:
    rows = []
    for name, states in figures.items():
        for state, each in states.items():
            ratios = each["ratios"]
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            rows.append(
                [name, state, each["tokens_s"], each["cpu_us"], spread, 1e3 * CLIENTS / each["tokens_s"]]
            )
    heads = ["model", "readout", "tokens/s", "CPU us/token", "against none (range over rounds)", "ms a pass"]
    _table.show(f"{CLIENTS} clients, {TOKENS} tokens an answer, {CONCEPTS} concepts", heads, rows)
    _table.show(
        "the hooks alone, us a pass",
        ["batch", "reading", "idle"],
        [[name, each["reading_us"], each["idle_us"]] for name, each in alone.items()],
    )


if __name__ == "__main__":
    sys.exit(main())
