"""The savings of a frozen context: the frozen pass against full passes, TRL's DPO, and its own limit.

    python -m bench.context_frozen [--threads 2] [--repeats 3] [--small] [--json]

A Qwen3 configuration of 48M parameters with random weights, float32 on the CPU, one example: a context of C
tokens and answers of T tokens each. `full` sends each side, context and answer, through the model in an
ordinary batch and computes logits on the answers alone; every row is forward and backward, compared by
process CPU time. The limit is the ratio of the products of matrices of either way, counted from this
configuration's shapes, attention and logits included: to leading order (C + 6 T) / (6 (C + T)) for a pair
and (C + 3 T) / (3 (C + T)) for SFT. The frozen pass need not compute the last layer of the context behind
its keys and values; `least` is the ratio without that. Peak memory is that of a process of its own, above
what it took with the model loaded, gradients included. TRL is given the reference's log-probabilities and
pays for no reference model.
"""

import argparse
import copy
import json
import logging
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid

from agents.trainer.scoring import prefix_scoring
from bench import _table
from bench._table import Goal

HIDDEN, INNER, LAYERS, HEADS, KEY_HEADS, HEAD_SIZE, VOCABULARY = 512, 1536, 10, 8, 4, 64, 32768
CASES = ((1024, 64, 2), (2048, 128, 2), (1024, 64, 1), (2048, 128, 1))
"""Context tokens, tokens of each answer, answers: 2 for a pair, 1 for SFT."""
SMALL = ((256, 32, 2), (256, 32, 1))
GOAL = 1.15
BETA = 0.1
Run = Callable[[], object]


def main() -> int:
    """Print the table; return 1 when a goal is missed."""
    parser = _table.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="short contexts, for a quick look; no goals")
    parser.add_argument("--peak", nargs=4, metavar=("WAY", "C", "T", "ANSWERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        way, *case = options.peak
        sys.stdout.write(f"{peak(way, *map(int, case))}\n")
        return 0
    result: dict[str, Any] = {}
    goals = []
    rows, parts = [], []
    for case in SMALL if options.small else CASES:
        name = f"{case[0]} + {case[1]}, {'pair' if case[2] == 2 else 'SFT'}"
        figures = result[name] = measured(case, options.repeats, options.threads)
        rows.append([name, figures["full_cpu_ms"], *(figures[key] for key in COLUMNS)])
        parts.append([name, *figures["parts"].values(), figures["limit"], figures["exact_limit"]])
        if case[0] >= 1024:
            goals.append(Goal(name=f"{name}: CPU time / limit", found=figures["of_limit"], limit=GOAL))
    _table.show(
        "forward and backward, as shares of full's CPU time and memory",
        [
            "C + T",
            "full CPU ms",
            "frozen",
            "limit",
            "frozen / limit",
            "least",
            "memory",
            "exact",
            "exact memory",
            "again",
            "TRL DPO",
            "frozen / TRL",
        ],
        rows,
    )
    _table.show(
        "limits, in GFLOP (exact: with the gradient through the context)",
        ["C + T", "context", "answers", "attention to the context", "logits", "full", "limit", "exact limit"],
        parts,
    )
    return _table.finish(result, goals, as_json=options.json)


COLUMNS = (
    "frozen",
    "limit",
    "of_limit",
    "least",
    "memory",
    "exact",
    "exact_memory",
    "checkpointed",
    "trl",
    "of_trl",
)


def measured(case: tuple[int, int, int], repeats: int, threads: int) -> dict[str, Any]:
    """Return all figures of one case."""
    network = model()
    runs = ways(network, *case)
    if case[2] == 1:
        del runs["exact"]  # nothing is shared
    else:
        runs["trl"] = _trl(network, *example(*case))
    timings = {name: timing.cpu_ms for name, timing in _table.interleaved(runs, repeats=repeats).items()}
    full = timings["full"]
    peaks = {way: _peak_apart(way, case, threads) for way in ("full", "frozen", "exact") if way in runs}
    parts = flops(*case)
    limit, least, exact_limit = (parts[way] / parts["full"] for way in ("frozen", "least", "exact"))
    shown = ("context", "answers", "attention", "logits", "full")
    return {
        "full_cpu_ms": full,
        "frozen": timings["frozen"] / full,
        "limit": limit,
        "of_limit": timings["frozen"] / full / limit,
        "least": least,
        "memory": peaks["frozen"] / peaks["full"],
        "exact": timings["exact"] / full if "exact" in runs else "",
        "exact_memory": peaks["exact"] / peaks["full"] if "exact" in runs else "",
        "exact_limit": exact_limit,
        "checkpointed": timings["frozen, again"] / full,
        "trl": timings["trl"] / full if "trl" in runs else "",
        "of_trl": timings["frozen"] / timings["trl"] if "trl" in runs else "",
        "parts": {key: parts[key] for key in shown},
        "peaks": peaks,
    }


def flops(context: int, answer: int, answers: int) -> dict[str, float]:
    """Return GFLOP of matrix products; a backward pass is two forward ones, or one without gradients."""
    keys = 2 * HIDDEN * KEY_HEADS * HEAD_SIZE
    layer = 2 * HIDDEN * HEADS * HEAD_SIZE + keys + 3 * HIDDEN * INNER
    seen = (
        2 * HEADS * HEAD_SIZE
    )  # scores and their sum over the values, for each pair of tokens that see each other
    before = context - 1  # one token is held back

    def through(tokens: int) -> float:
        return LAYERS * (layer * tokens + seen * tokens * (tokens + 1) / 2)

    reading = through(before)
    spared = reading / LAYERS - keys * before
    own = 3 * answers * through(answer)
    # Forward two products; backward two more for the query, and two for the context's keys and values
    # if they are not frozen.
    past = answers * LAYERS * seen * answer * before * 2
    logits = 3 * answers * answer * HIDDEN * VOCABULARY
    whole = 3 * answers * through(context + answer) + logits
    exact = 3 * through(before) + own + 1.5 * past + logits
    counts = {
        "context": reading,
        "answers": own,
        "attention": past,
        "logits": logits,
        "full": whole,
        "exact": exact,
    }
    counts |= {"frozen": reading + own + past + logits, "least": reading - spared + own + past + logits}
    return {name: 2e-9 * value for name, value in counts.items()}


def model() -> Any:
    """Return the configuration's model, always with the same weights."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        head_dim=HEAD_SIZE,
        tie_word_embeddings=True,
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def ways(network: Any, context: int, answer: int, answers: int) -> dict[str, Run]:
    """Return each way to run forward and backward over one example."""
    shared, sides = example(context, answer, answers)
    rows = torch.tensor([[*shared, *side] for side in sides])

    def loss(totals: torch.Tensor) -> torch.Tensor:
        return -logsigmoid(BETA * (totals[0] - totals[1])) if answers == 2 else -totals[0] / answer

    def full() -> None:
        hidden = network.base_model(input_ids=rows, use_cache=False).last_hidden_state[:, context - 1 : -1]
        each = cross_entropy(
            network.lm_head(hidden).flatten(0, 1), rows[:, context:].flatten(), reduction="none"
        )
        backward(network, loss(-each.view(answers, -1).sum(1)))

    def packed(**how: bool) -> None:
        sides_scored = prefix_scoring.scores(network, [shared], [[side] for side in sides], train=True, **how)
        backward(network, loss(torch.cat([side.total for side in sides_scored])))

    return {
        "full": full,
        "frozen": packed,
        "frozen, again": lambda: packed(checkpointing=True),
        "exact": lambda: packed(context_gradient=True),
    }


def example(context: int, answer: int, answers: int) -> tuple[list[int], list[list[int]]]:
    """Return random tokens of a context and of its answers."""
    draw = random.Random(0)
    first, *rest = ([draw.randrange(VOCABULARY) for _ in range(n)] for n in (context, *[answer] * answers))
    return first, rest


def backward(network: Any, loss: torch.Tensor) -> None:
    """Compute gradients into empty fields, as in a step."""
    network.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]


def _trl(network: Any, context: list[int], sides: list[list[int]]) -> Run:
    """Return TRL's DPO loss on the same tokens and weights."""
    logging.getLogger("trl").setLevel(logging.ERROR)
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference, add_fused_lm_head

    from bench.losses import trainer

    theirs = copy.deepcopy(network)
    add_fused_lm_head(theirs, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    row = {"prompt_ids": context, "chosen_ids": sides[0], "rejected_ids": sides[1]}
    row |= {"ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}
    inputs = DataCollatorForPreference(pad_token_id=0)([row])
    maker = trainer(
        DPOTrainer, ld_alpha=None, f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0],
        label_smoothing=0.0, use_weighting=False, args=argparse.Namespace(max_length=None),
    )  # fmt: skip
    return lambda: backward(theirs, maker.compute_loss(theirs, dict(inputs)))


def peak(way: str, context: int, answer: int, answers: int) -> int:
    """Return the bytes that one such pass took at its peak, above the loaded model."""
    network = model()
    runs = ways(network, context, answer, answers)
    ways(network, 4, 2, 1)[way]()  # what a first pass loads
    network.zero_grad(set_to_none=True)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    runs[way]()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def _peak_apart(way: str, case: tuple[int, int, int], threads: int) -> float:
    """Return the peak in MiB, measured in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "bench.context_frozen",
        "--threads",
        str(threads),
        "--peak",
        way,
        *map(str, case),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])) / 2**20


if __name__ == "__main__":
    sys.exit(main())
