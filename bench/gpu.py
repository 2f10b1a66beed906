"""The trainer on a GPU: a step of a 1B-parameter bfloat16 Qwen3, Apollo against fused AdamW, and IPC views.

    python -m bench.gpu [--repeats 10] [--rows 8] [--length 1024] [--json]

Random weights. A step is forward, backward and the optimizer's step; the share of the peak counts 6 x
parameters x tokens against 989 TFLOP/s (H100 SXM, dense bfloat16). At the end a second process is handed a
weight over CUDA IPC and writes it. Without a CUDA device it says so and measures nothing.
"""

import argparse
import sys
import time
from typing import Any

import torch

from agents.trainer.apollo.optimizer import Apollo
from bench import _table

PEAK_TFLOPS = 989.0
"""Of an H100 SXM, dense bfloat16; another card has another."""


def main() -> int:
    """Print the table."""
    parser = _table.parser(__doc__, threads=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not torch.cuda.is_available():
        sys.stdout.write("no CUDA device: nothing was measured\n")
        return _table.finish({"card": None}, [], as_json=options.json)
    result: dict[str, Any] = {"card": torch.cuda.get_device_name()}
    rows = []
    for name in ("AdamW, fused", "Apollo, rank 64", "Apollo, sketch"):
        result[name] = figures = _measured(name, options)
        rows.append([name, *figures.values()])
    heads = ["optimizer", "step ms", "optimizer ms", "tokens/s", "share of peak", "peak GiB"]
    _table.show(f"{result['card']}, {options.rows} rows of {options.length} tokens", heads, rows)
    result["ipc"] = ipc_roundtrip()
    _table.show(
        "CUDA IPC",
        ["a second process writes the weight", "GB/s"],
        [[result["ipc"]["seen"], result["ipc"]["gb_s"]]],
    )
    return _table.finish(result, [], as_json=options.json)


def _measured(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Return the medians over the repeats of one optimizer with a model of its own."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = _model()
    weights = list(model.parameters())
    optimizer: torch.optim.Optimizer
    if name.startswith("AdamW"):
        optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=True)
    else:
        optimizer = Apollo(weights, 1e-6, projection="sketch" if "sketch" in name else "gaussian")
    tokens = torch.randint(0, model.config.vocab_size, (options.rows, options.length), device="cuda")
    whole, alone = [], []
    for _ in range(2 + options.repeats):
        began = _now()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        between = _now()
        optimizer.step()
        ended = _now()
        optimizer.zero_grad()
        whole.append(ended - began)
        alone.append(ended - between)
    step, optimizing = (sorted(times[2:])[len(times[2:]) // 2] for times in (whole, alone))
    flops = 6 * sum(weight.numel() for weight in weights) * tokens.numel()
    return {
        "step_ms": 1e3 * step,
        "optimizer_ms": 1e3 * optimizing,
        "tokens_per_second": tokens.numel() / step,
        "share_of_peak": flops / step / (PEAK_TFLOPS * 1e12),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def _now() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _model() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = {"vocab_size": 32768, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 18}
    heads = {
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(0)
    with torch.device("cuda"):
        return Qwen3ForCausalLM(Qwen3Config(**sizes, **heads)).to(torch.bfloat16)


def ipc_roundtrip() -> dict[str, Any]:
    """Share 1 GiB of weights with a process that adds to them; return whether that is seen, and the rate."""
    import torch.multiprocessing as processes

    spawning = processes.get_context("spawn")
    weight = torch.zeros(2**29, dtype=torch.bfloat16, device="cuda")
    inbox, outbox = spawning.SimpleQueue(), spawning.SimpleQueue()
    child = spawning.Process(target=_add_to, args=(inbox, outbox), daemon=True)
    child.start()
    inbox.put(weight)
    seconds = outbox.get()
    child.join(60)
    return {"seen": bool((weight == 1).all()), "gb_s": 2 * weight.nbytes / seconds / 1e9}


def _add_to(inbox: Any, outbox: Any) -> None:
    weight = inbox.get()
    began = _now()
    weight.add_(1)
    outbox.put(_now() - began)


if __name__ == "__main__":
    sys.exit(main())
