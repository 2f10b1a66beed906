"""A step of Apollo and of its rivals: fused AdamW, and apollo-torch (the authors' package, never read).

    python -m bench.optimizer [--threads 2] [--repeats 15] [--json]

The matrices are those of a 50M and a 150M Qwen3 configuration, without the embeddings; float32 on the CPU.
Every optimizer has weights of its own, all read the same gradients, and a round steps each of them once.
The streaming limit reads a gradient and writes a weight and does nothing else.
"""

import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from agents.trainer.apollo import kernel
from agents.trainer.apollo.optimizer import Apollo
from bench import _table
from bench._table import Goal

Shape = tuple[int, int]


def main() -> int:
    """Print the tables; return 1 when a goal is missed."""
    parser = _table.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = {"50M": qwen3(512, 1536, 10, 8, 4), "150M": qwen3(768, 3072, 14, 12, 6)}
    result: dict[str, Any] = {"compiled": kernel.is_built()}
    goals = []
    for size, shapes in sizes.items():
        result[size] = _measured(size, shapes, options.repeats)
        goals += _goals(size, result[size])
    return _table.finish(result, goals, as_json=options.json)


def qwen3(hidden: int, inner: int, layers: int, heads: int, key_heads: int) -> list[Shape]:
    """Return the matrices of a Qwen3 configuration with heads of 64, without the embeddings."""
    attention = [
        (64 * heads, hidden),
        (64 * key_heads, hidden),
        (64 * key_heads, hidden),
        (hidden, 64 * heads),
    ]
    return [*attention, (inner, hidden), (inner, hidden), (hidden, inner)] * layers


def _measured(size: str, shapes: list[Shape], repeats: int) -> dict[str, Any]:
    """Return the milliseconds of a step of each, and the bytes of its state for the matrices."""
    optimizers = _optimizers(shapes)
    runs: dict[str, Callable[[], object]] = {name: optimizer.step for name, optimizer in optimizers.items()}
    runs["streaming limit"] = _streaming(shapes)
    timings = _table.interleaved(runs, repeats=repeats, warmup=2)
    adamw, theirs = timings["AdamW, fused"].wall_ms, timings["apollo-torch, rank 64"].wall_ms
    state = {name: _state_bytes(optimizer) for name, optimizer in optimizers.items()}
    rows = []
    for name, timing in timings.items():
        share = state[name] / state["AdamW, fused"] if name in state else ""
        rows.append(
            [name, timing.wall_ms, timing.cpu_ms, timing.wall_ms / adamw, timing.wall_ms / theirs, share]
        )
    elements = sum(a * b for a, b in shapes) / 1e6
    heads = ["optimizer", "wall ms", "CPU ms", "/ AdamW", "/ apollo-torch", "state / AdamW's"]
    _table.show(f"one step, {size}: {len(shapes)} matrices, {elements:.1f}M parameters", heads, rows)
    return {
        name: {"wall_ms": t.wall_ms, "cpu_ms": t.cpu_ms, "state": state.get(name)}
        for name, t in timings.items()
    }


def _goals(size: str, figures_of: dict[str, Any]) -> list[Goal]:
    wall = {name: figures["wall_ms"] for name, figures in figures_of.items()}
    theirs, adamw = wall["apollo-torch, rank 64"], wall["AdamW, fused"]
    state = figures_of["Apollo, rank 64"]["state"] / figures_of["AdamW, fused"]["state"]
    return [
        Goal(name=f"{size}: Apollo / apollo-torch", found=wall["Apollo, rank 64"] / theirs, limit=0.60),
        Goal(name=f"{size}: sketch / apollo-torch", found=wall["Apollo, sketch"] / theirs, limit=0.20),
        Goal(name=f"{size}: sketch / AdamW", found=wall["Apollo, sketch"] / adamw, limit=0.95),
        Goal(
            name=f"{size}: Mini / theirs", found=wall["Apollo-Mini"] / wall["apollo-torch, Mini"], limit=0.65
        ),
        # Rank 64 is a quarter of the smaller one's k and v projections, 256 wide: no rank 64 state is less.
        *([Goal(name=f"{size}: matrix state / AdamW's", found=state, limit=0.095)] if size == "150M" else []),
    ]


def _optimizers(shapes: list[Shape]) -> dict[str, torch.optim.Optimizer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from apollo_torch import APOLLOAdamW  # type: ignore[import-not-found,unused-ignore]

    def theirs(rank: int, scale_type: str, scale: float) -> torch.optim.Optimizer:
        settings = {"rank": rank, "proj": "random", "proj_type": "std", "update_proj_gap": 200}
        group = {"params": _weights(shapes), **settings, "scale_type": scale_type, "scale": scale}
        optimizer: torch.optim.Optimizer = APOLLOAdamW([group], lr=1e-5)
        return optimizer

    return {
        "AdamW, fused": torch.optim.AdamW(_weights(shapes), lr=1e-5, fused=True),
        "apollo-torch, rank 64": theirs(64, "channel", 1.0),
        "apollo-torch, Mini": theirs(1, "tensor", 128.0),
        "Apollo, rank 64": Apollo(_weights(shapes), 1e-5),
        "Apollo, sketch": Apollo(_weights(shapes), 1e-5, projection="sketch"),
        "Apollo-Mini": Apollo(_weights(shapes), 1e-5, rank=1),
        "Apollo, rank 64, without the kernel": Apollo(_weights(shapes), 1e-5, compiled=False),
    }


def _weights(shapes: list[Shape]) -> list[torch.nn.Parameter]:
    """Return random weights, each with a random gradient, the same for every optimizer."""
    weights = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]
    for weight, gradient in zip(weights, _gradients(tuple(shapes)), strict=True):
        weight.grad = gradient
    return weights


@cache
def _gradients(shapes: tuple[Shape, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape) for shape in shapes]


def _streaming(shapes: list[Shape]) -> Callable[[], object]:
    weights = _weights(shapes)

    @torch.no_grad()
    def run() -> None:
        for weight in weights:
            assert weight.grad is not None
            weight.add_(weight.grad, alpha=-1e-6)

    return run


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors in the state."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, torch.Tensor))


if __name__ == "__main__":
    sys.exit(main())
