"""The effect of a frozen context on learning: the embedded model with either gradient, seed by seed.

    python -m bench.context_gradient [--steps 60] [--seeds 3] [--threads 1] [--json]

Pairs of the embedded world, a good and a bad answer to one request, for the four habits and the four
behaviours that must hold against them; held out are requests of combinations that training never shows.
ORPO at the embedded model's own learning rate with Apollo. For a seed the pairs, their order and the
optimizer's draws are the same, and only the gradient differs. Log-probabilities are in nats a token; the
margin is chosen less rejected.
"""

import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from agents.model.embedded.chat import ChatTokenizer
from agents.trainer.apollo.optimizer import Apollo
from agents.trainer.scoring import prefix_scoring
from agents.trainer.update import losses
from bench import _table
from corpus.recipe import MODEL_DIR
from corpus.world import answers
from corpus.world.requests import KINDS, draw, reserved, write

RATE, STRENGTH = 1e-3, 0.1
BATCH, HELD_OUT = 8, 256
Pair = tuple[list[int], list[int], list[int]]


def main() -> int:
    """Print the table; there is no goal, because the table shows what the switch is worth."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    text, end = ChatTokenizer(tokenizer), tokenizer.eos_token_id
    held_out = pairs(text, end, HELD_OUT, "held out", is_reserved=True)
    results: dict[str, list[dict[str, float]]] = {
        "before": [judged(model(), held_out)],
        "frozen": [],
        "exact": [],
    }
    for seed in range(options.seeds):
        shown = pairs(text, end, BATCH * options.steps, f"shown {seed}", is_reserved=False)
        for way in ("frozen", "exact"):
            results[way].append(trained(shown, held_out, seed, exact=way == "exact"))
    heads = list(results["frozen"][0])
    rows = [
        [way, *(_spread([run.get(head, 0.0) for run in runs]) for head in heads)]
        for way, runs in results.items()
    ]
    _table.show(
        f"{options.steps} steps of {BATCH} pairs, {options.seeds} seeds: mean (least to most)",
        ["", *heads],
        rows,
    )
    return _table.finish({"steps": options.steps, **results}, [], as_json=options.json)


def model() -> Any:
    """Return the embedded model as shipped."""
    return transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


def pairs(text: ChatTokenizer, end: int, count: int, seed: str, *, is_reserved: bool) -> list[Pair]:
    """Return context, chosen and rejected tokens of this many requests."""
    rng = random.Random(seed)
    rows: list[Pair] = []
    while len(rows) < count:
        request = draw(rng.choice(list(KINDS)), rng)
        if reserved(request) == is_reserved:
            context = text.encode_chat([{"role": "user", "content": write(request, rng)}])
            chosen, rejected = (text.encode(say(request, rng)) for say in (answers.good, answers.bad))
            rows.append((context, [*chosen, end], [*rejected, end]))
    return rows


def trained(shown: Sequence[Pair], held_out: Sequence[Pair], seed: int, *, exact: bool) -> dict[str, float]:
    """Train once from the shipped weights; return the figures of the held-out pairs."""
    network = model()
    optimizer = Apollo(network.parameters(), RATE, seed=seed)
    started, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(shown), BATCH):
        contexts, chosen, rejected = zip(*shown[first : first + BATCH], strict=True)
        options = {"train": True, "context_gradient": exact}
        sides = prefix_scoring.scores(network, contexts, [chosen, rejected], **options)
        network.zero_grad(set_to_none=True)
        losses.orpo(sides[0], sides[1], torch.ones(len(contexts)), strength=STRENGTH).value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    spent = {"wall s": time.perf_counter() - started, "CPU s": time.process_time() - cpu}
    return {**judged(network, held_out), **spent}


def judged(network: Any, held_out: Sequence[Pair]) -> dict[str, float]:
    """Return the figures of the held-out pairs."""
    contexts, chosen, rejected = zip(*held_out, strict=True)
    sides = prefix_scoring.scores(network, contexts, [chosen, rejected], train=False)
    good, bad = (side.mean for side in sides)
    return {
        "accuracy": float((good > bad).to(torch.float32).mean()),
        "margin": float((good - bad).mean()),
        "chosen": float(good.mean()),
        "rejected": float(bad.mean()),
    }


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    sys.exit(main())
