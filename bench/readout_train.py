"""The savings for concept vectors of ending the forward pass early, and of batches by length.

    python -m bench.readout_train [--threads 1] [--repeats 3] [--json]

A random Qwen3 of 12 layers, 38 million parameters, in float32, reads texts of the states' corpus at their
last token, each cut to a third: the embedded model's tokenizer needs three times the tokens of a large
model's. `full` is the whole forward pass, to the final norm and without the output head; `ended` stops
behind the layer that is asked for. Both read the same batches, so the ratio is that of the layers computed,
with embeddings and hooks on top. Then the tokens, padding included, of all texts in batches as they stand
in the corpus and by length; and the three ways to a vector, timed on activations of a large model's size.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from agents.readout.concept_vectors import METHODS, concept_vectors
from agents.trainer.scoring import residual_stream as stream
from bench import _table
from bench._served import larger_model
from bench._table import Goal
from corpus import concept_sets

TEXTS, LAYERS, CUT = 16, 12, 3
DEPTH = 0.47
"""Share of a whole pass that ending early was said to take."""
MOST = 1.15
"""The goal: CPU time of a pass that ends early over its layers' share; the rest is embeddings and hooks."""
HIDDEN = 4096


def main() -> int:
    """Print the tables; return 1 when a goal is missed."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    states = concept_sets.of_states()
    with tempfile.TemporaryDirectory() as folder:
        directory = larger_model(Path(folder) / "model")
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        every = [ids[: len(ids) // CUT] for ids in (tokenizer(text)["input_ids"] for _, text in states.texts)]
        rows = every[:: len(every) // TEXTS][:TEXTS]
        depths = _depths(model, rows, options.repeats)
    padded, ways = _padded(every), _ways(states)
    tokens = sum(map(len, rows))
    _table.show(
        f"{len(rows)} texts of {tokens} tokens, read behind one layer of {LAYERS}",
        ["", "share of the layers", "CPU ms", "share of full"],
        [[name, depth["layers"], depth["cpu_ms"], depth["share"]] for name, depth in depths.items()],
    )
    _table.show(
        f"tokens of all {len(every)} texts in batches", ["", "tokens"], [[*row] for row in padded.items()]
    )
    _table.show(
        f"vectors of {len(states.concepts)} states from {len(states.texts)} texts, "
        f"hidden size {HIDDEN}, one layer",
        ["method", "CPU s"],
        [[name, cpu] for name, cpu in ways.items()],
    )
    nearest = min(
        (name for name in depths if name != "full"), key=lambda name: abs(depths[name]["layers"] - DEPTH)
    )
    depth = depths[nearest]
    goals = [
        Goal(
            name=f"{nearest}: share of full / share of the layers",
            found=depth["share"] / depth["layers"],
            limit=MOST,
        )
    ]
    result = {"depths": depths, "padded": padded, "vectors": ways, "tokens": tokens}
    return _table.finish(result, goals, as_json=options.json)


def _depths(model: Any, rows: list[list[int]], repeats: int) -> dict[str, dict[str, float]]:
    """Return the CPU time of a whole pass and of passes that end earlier, timed in turn."""

    def whole() -> None:
        with torch.no_grad():
            for part in stream.chunks(rows, sorted(range(len(rows)), key=lambda i: len(rows[i]))):
                tokens, mask = stream.pad([rows[i] for i in part], torch.device("cpu"))
                model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False)

    ends = [round(share * LAYERS) - 1 for share in (DEPTH, 0.75, 1.0)]
    runs: dict[str, Any] = {"full": whole}
    for end in ends:
        runs[f"ended behind layer {end}"] = lambda end=end: stream.residuals(model, rows, [end])
    timings = _table.interleaved(runs, repeats=repeats)
    layers = [1.0, *((end + 1) / LAYERS for end in ends)]
    return {
        name: {
            "layers": share,
            "cpu_ms": timings[name].cpu_ms,
            "share": timings[name].cpu_ms / timings["full"].cpu_ms,
        }
        for name, share in zip(runs, layers, strict=True)
    }


def _padded(rows: list[list[int]]) -> dict[str, int]:
    """Return the tokens of all batches with their padding: in the order of the corpus, and by length."""
    orders = {
        "as they stand": range(len(rows)),
        "by length": sorted(range(len(rows)), key=lambda i: len(rows[i])),
    }
    tokens = {"without padding": sum(map(len, rows))}
    for name, order in orders.items():
        parts = [order[first : first + stream.CHUNK] for first in range(0, len(order), stream.CHUNK)]
        tokens[name] = sum(len(part) * max(len(rows[i]) for i in part) for part in parts)
    return tokens


def _ways(states: concept_sets.ConceptSet) -> dict[str, float]:
    """Return the CPU seconds of each method on random activations of a larger model's size."""
    activations = np.random.default_rng(0).normal(size=(len(states.texts), HIDDEN))
    seconds = {}
    for method in METHODS:
        spent = []
        for _ in range(3):
            began = time.process_time()
            concept_vectors(activations, states.labels, states.concepts, method)
            spent.append(time.process_time() - began)
        seconds[method] = statistics.median(spent)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
