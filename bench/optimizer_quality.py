"""The final loss of a byte-level language model under each optimizer, at the best of five learning rates.

    python -m bench.optimizer_quality [--steps 300] [--threads 2] [--json]

A Qwen3 of 2.4M parameters on the sources of Python's standard library, a tenth of the files held out. Every
run has the same start, the same batches in the same order and the same schedule (a tenth warm-up, then a
cosine to a tenth of the rate). The loss is in nats a byte, on 64 held-out windows; the text differs between
Python versions.
"""

import argparse
import math
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from agents.trainer.apollo.optimizer import Apollo
from bench import _table
from bench._table import Goal

BATCH, WINDOW, HELD_OUT = 8, 128, 64
"""Windows a step, bytes in a window, windows to evaluate on."""
Make = Callable[[Iterable[torch.Tensor], float], torch.optim.Optimizer]

OPTIMIZERS: dict[str, tuple[Make, tuple[float, ...]]] = {
    "AdamW": (lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.0), (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)),
    "Apollo, rank 64": (lambda p, lr: Apollo(p, lr), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)),
    "Apollo, sketch": (lambda p, lr: Apollo(p, lr, projection="sketch"), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)),
    "Apollo-Mini": (lambda p, lr: Apollo(p, lr, rank=1), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)),
}
"""Each with its learning rates."""


def main() -> int:
    """Print the table; return 1 when a goal is missed."""
    parser = _table.parser(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    training, held_out = (_bytes(part) for part in (False, True))
    result: dict[str, Any] = {"steps": options.steps}
    for name, (make, rates) in OPTIMIZERS.items():
        result[name] = {f"{rate:g}": _final_loss(make, rate, training, held_out, options) for rate in rates}
    best = {name: min(result[name].values()) for name in OPTIMIZERS}
    rows = []
    for name in OPTIMIZERS:
        losses = [f"{rate}: {loss:.3f}" for rate, loss in result[name].items()]
        rows.append([name, f"{best[name]:.3f}", f"{best[name] - best['AdamW']:+.3f}", *losses])
    _table.show("evaluation loss, nats a byte", ["optimizer", "best", "to AdamW", *["rate: loss"] * 5], rows)
    goals = [
        Goal(name=f"{name}: loss over AdamW's", found=best[name] - best["AdamW"], limit=0.02)
        for name in ("Apollo, rank 64", "Apollo, sketch")
    ]
    return _table.finish(result, goals, as_json=options.json)


def _bytes(held_out: bool) -> torch.Tensor:
    """Return the standard library's sources as (n,) int64; every tenth file is held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    chosen = [path for index, path in enumerate(files) if (index % 10 == 0) == held_out]
    return torch.frombuffer(
        bytearray(b"\n".join(path.read_bytes() for path in chosen)), dtype=torch.uint8
    ).long()


def _final_loss(
    make: Make, rate: float, training: torch.Tensor, held_out: torch.Tensor, options: argparse.Namespace
) -> float:
    """Train from the common start; return the evaluation loss."""
    began = time.monotonic()
    model, draw = _model(), torch.Generator().manual_seed(1)
    optimizer = make(model.parameters(), rate)
    warmup = max(1, options.steps // 10)

    def factor(step: int) -> float:
        late = (step - warmup) / max(1, options.steps - warmup)
        return (step + 1) / warmup if step < warmup else 0.1 + 0.45 * (1 + math.cos(math.pi * late))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for _ in range(options.steps):
        loss = _loss(model, _windows(training, BATCH, draw))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.no_grad():
        final = float(_loss(model, _windows(held_out, HELD_OUT, torch.Generator().manual_seed(2))))
    sys.stderr.write(
        f"{type(optimizer).__name__} {rate:g}: {final:.3f} in {time.monotonic() - began:.0f} s\n"
    )
    return final if math.isfinite(final) else math.inf


def _model() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=256, tie_word_embeddings=True, **sizes, **heads))


def _windows(text: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
    """Return (count, WINDOW + 1) bytes from random places."""
    starts = torch.randint(0, text.shape[0] - WINDOW - 1, (count,), generator=draw)
    return torch.stack([text[start : start + WINDOW + 1] for start in starts.tolist()])


def _loss(model: Any, windows: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


if __name__ == "__main__":
    sys.exit(main())
