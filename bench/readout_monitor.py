"""The cost of the monitor: the projection on the concept vectors against the pass that it reads.

    python -m bench.readout_monitor [--threads 1] [--repeats 7] [--json]

Where the residual stream is there already (a user's own vLLM reads it in the pass that answers) a reading
costs the projection alone: a row on so many vectors. The night's readings of turns and attempts cost a
forward pass of the trainer's besides, up to the layer that is read. Both are timed on the embedded model
and on a random Qwen3 of 38 million parameters, in float32, on texts of the states' corpus, with 9 vectors
and with 199. `whole pass` computes every layer and no output head, so the shares are upper bounds of those
of an answer.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from agents.trainer.scoring import residual_stream
from bench import _table
from bench._served import larger_model
from bench._table import Goal
from corpus import concept_sets
from corpus.recipe import MODEL_DIR

TEXTS = 32
CONCEPTS = (9, 199)
OF = {"embedded, 0.92 M": 9, "random Qwen3, 38 M": 199}
"""Number of concepts in a model's set, for which the goal holds; the embedded model knows its world alone."""
MOST = 0.01
"""The goal: CPU time of a projection of every token, over that of the whole pass."""
TIMES = 50
"""Projections in one timing: one alone is over before a clock has moved."""
Figures = dict[str, Any]


def main() -> int:
    """Print the tables; return 1 when a goal is missed."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = [text for _, text in concept_sets.of_states().texts[:: 571 // TEXTS]][:TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        models = {"embedded, 0.92 M": MODEL_DIR, "random Qwen3, 38 M": larger_model(Path(folder) / "model")}
        costs = {name: _costs(Path(place), texts, options.repeats) for name, place in models.items()}
    _table.show(
        f"{TEXTS} texts, CPU ms",
        ["model", "tokens", "whole pass", "the trainer's pass, to layer", "its share", *_heads()],
        [_row(name, cost) for name, cost in costs.items()],
    )
    goals = [
        Goal(name=f"{name}, {count} vectors: projection of every token / whole pass", found=share, limit=MOST)
        for name, cost in costs.items()
        for count, share in cost["shares"].items()
        if int(count) == OF[name]
    ]
    return _table.finish(costs, goals, as_json=options.json)


def _heads() -> list[str]:
    return [f"every token on {count}, share" for count in CONCEPTS]


def _row(name: str, cost: Figures) -> list[Any]:
    passed = f"{cost['ended_ms']:.4g} ({cost['layer']} of {cost['layers']})"
    return [name, cost["tokens"], cost["whole_ms"], passed, cost["ended_share"], *cost["shares"].values()]


def _costs(directory: Path, texts: list[str], repeats: int) -> Figures:
    """Return the CPU times of one model, taken in turn."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    rows = [tokenizer(text)["input_ids"][:256] for text in texts]
    layers, hidden, tokens = model.config.num_hidden_layers, model.config.hidden_size, sum(map(len, rows))
    layer = min(layers - 1, round(0.6 * layers))
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(tokens, hidden)).astype(np.float32)
    batches = [
        [rows[i] for i in part]
        for part in residual_stream.chunks(rows, sorted(range(TEXTS), key=lambda i: len(rows[i])))
    ]

    def whole() -> None:
        with torch.no_grad():
            for batch in batches:
                ids, mask = residual_stream.pad(batch, torch.device("cpu"))
                model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)

    def projection(count: int) -> Callable[[], None]:
        vectors = rng.normal(size=(hidden, count)).astype(np.float32)

        def project() -> None:
            for _ in range(TIMES):
                np.matmul(seen, vectors)

        return project

    runs = {"whole": whole, "ended": lambda: residual_stream.residuals(model, rows, [layer])}
    timings = _table.interleaved(
        runs | {str(count): projection(count) for count in CONCEPTS}, repeats=repeats
    )
    whole_ms = timings["whole"].cpu_ms
    return {
        "tokens": tokens,
        "layer": layer + 1,
        "layers": layers,
        "whole_ms": whole_ms,
        "ended_ms": timings["ended"].cpu_ms,
        "ended_share": timings["ended"].cpu_ms / whole_ms,
        "shares": {str(count): timings[str(count)].cpu_ms / TIMES / whole_ms for count in CONCEPTS},
    }


if __name__ == "__main__":
    sys.exit(main())
