"""Answers a second of the embedded model on one thread, by batch size, against transformers' own.

    python -m bench.generation [--rows 1024] [--repeats 3] [--threads 1] [--json]

The shipped model answers requests of its world at T = 1.
The rival is `generate` of the same transformers, with the same batch size and limit. Knows no server:
what HTTP and the encoding of prompts cost on top is not in here.
"""

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from agents.model.embedded.chat import ChatTokenizer
from agents.model.embedded.forward import TransformersForward, forward_for
from agents.model.embedded.sampling import GenerationRequest, Sampler
from agents.model.process import keep_freed_memory
from bench import _table
from corpus.recipe import MODEL_DIR
from corpus.world.requests import KINDS, draw, write

MAX_TOKENS = 64
"""Longest answer; the shipped model's are 13 tokens on average."""
Run = Callable[[], object]


def main() -> int:
    """Print the table; there is no goal."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval()
    timings = _table.interleaved(
        _runs(model, ChatTokenizer(tokenizer), tokenizer, options.rows), repeats=options.repeats
    )
    speeds = {name: 1e3 * options.rows / timing.wall_ms for name, timing in timings.items()}
    rows = [[name, speeds[name], timing.wall_ms, timing.cpu_ms] for name, timing in timings.items()]
    _table.show(f"{options.rows} answers", ["", "answers/s", "wall ms", "CPU ms"], rows)
    return _table.finish({"answers_per_second": speeds}, [], as_json=options.json)


def _runs(model: Any, text: ChatTokenizer, tokenizer: Any, rows: int) -> dict[str, Run]:
    """Return each way of answering all the prompts, by name."""
    rng = random.Random(0)
    requests = [write(draw(rng.choice(list(KINDS)), rng), rng) for _ in range(rows)]
    prompts = [text.encode_chat([{"role": "user", "content": request}]) for request in requests]
    ends = [tokenizer.eos_token_id]
    quick, plain = (
        Sampler(one, text.decode, ends) for one in (forward_for(model), TransformersForward(model))
    )
    runs: dict[str, Run] = {}
    for size in (16, 32, 64, 128, 256):
        runs[f"ours, batches of {size}"] = _ours(quick, prompts, size)
    runs["ours, transformers' forward, 64"] = _ours(plain, prompts, 64)
    runs["transformers generate, 64"] = lambda: _theirs(model, tokenizer, prompts, 64)
    return runs


def _ours(sampler: Sampler, prompts: Sequence[Sequence[int]], size: int) -> Run:
    """Run all prompts through our sampler, in batches of this size."""
    asks = [
        GenerationRequest(tokens=tokens, seed=seed, temperature=1.0, max_tokens=MAX_TOKENS)
        for seed, tokens in enumerate(prompts)
    ]

    def run() -> None:
        for first in range(0, len(asks), size):
            sampler.generate(asks[first : first + size])

    return run


def _theirs(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], size: int) -> None:
    """Run all prompts through `generate`."""
    for first in range(0, len(prompts), size):
        part = {"input_ids": [list(prompt) for prompt in prompts[first : first + size]]}
        padded = tokenizer.pad(part, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**padded, do_sample=True, top_k=0, max_new_tokens=MAX_TOKENS)
        tokenizer.batch_decode(out[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)


if __name__ == "__main__":
    sys.exit(main())
