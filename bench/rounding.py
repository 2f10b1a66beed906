"""bfloat16 weights against the float32 run: stochastic rounding, rounding to nearest, master weights.

    python -m bench.rounding [--steps 200] [--rates 1e-5 1e-6 5e-7] [--json]

One sequence of gradients is recorded in a float32 run of Apollo on the embedded model, and every way of
rounding is given the same sequence. With d the displacement of the float32 run and e that of another, the
component along d is <e, d> / <d, d> (1: all of it), and the noise is what is left, |e - component d| / |d|.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from agents.trainer.apollo.optimizer import Apollo
from bench import _table
from bench._table import Goal

Gradients = list[list[torch.Tensor]]
"""For each step, the gradient of each weight."""
BATCH = 8
"""Conversations a step."""
WAYS = ("float32", "stochastic", "nearest", "master weights")


def main() -> int:
    """Print the tables; return 1 when a goal is missed."""
    parser = _table.parser(__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-6, 5e-7])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"steps": options.steps}
    goals = []
    for rate in options.rates:
        model = embedded_model()
        start = [weight.detach().to(torch.bfloat16) for weight in model.parameters()]
        gradients = recorded(model, losses(model), rate, options.steps)
        ways = compared(start, gradients, rate)
        result[f"{rate:g}"] = ways
        rows = [[way, component, noise] for way, (component, noise) in ways.items()]
        _table.show(f"{options.steps} steps at lr {rate:g}", ["rounding", "component", "noise"], rows)
        if rate == 1e-5:
            off = abs(ways["stochastic"][0] - 1)
            goals.append(Goal(name="lr 1e-5: stochastic, component off 1", found=off, limit=0.02))
    return _table.finish(result, goals, as_json=options.json)


def recorded(model: Any, losses: Iterator[torch.Tensor], rate: float, steps: int) -> Gradients:
    """Return the gradients of a float32 run from weights that bfloat16 can hold; this trains the model."""
    weights = list(model.parameters())
    with torch.no_grad():
        for weight in weights:
            weight.copy_(weight.to(torch.bfloat16))
    optimizer, gradients = Apollo(weights, rate), []
    for _ in range(steps):
        optimizer.zero_grad()
        next(losses).backward()  # type: ignore[no-untyped-call]
        gradients.append([weight.grad.clone() for weight in weights])
        optimizer.step()
    return gradients


def compared(
    start: Sequence[torch.Tensor], gradients: Gradients, rate: float
) -> dict[str, tuple[float, float]]:
    """Return component along the float32 run's displacement, and noise, of every way but float32."""
    straight = replayed(start, gradients, rate, "float32")
    length = float(straight.square().sum())
    ways = {}
    for way in WAYS[1:]:
        displacement = replayed(start, gradients, rate, way)
        component = float(displacement @ straight) / length
        noise = float((displacement - component * straight).norm()) / math.sqrt(length)
        ways[way] = (component, noise)
    return ways


def replayed(start: Sequence[torch.Tensor], gradients: Gradients, rate: float, way: str) -> torch.Tensor:
    """Return the displacement (n,), float64, of all weights together after these gradients."""
    plain = way in ("float32", "nearest")
    weights = [torch.nn.Parameter(w.to(torch.float32) if plain else w.clone()) for w in start]
    optimizer = Apollo(weights, rate, master_weights=way == "master weights")
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.to(weight.dtype)
        optimizer.step()
        if way == "nearest":
            with torch.no_grad():
                for weight in weights:
                    weight.copy_(weight.to(torch.bfloat16))
    ends = [optimizer.state[w].get("master", w.detach()) for w in weights]
    return torch.cat([(e.double() - s.double()).flatten() for e, s in zip(ends, start, strict=True)])


def embedded_model() -> Any:
    from transformers import AutoModelForCausalLM

    from corpus.recipe import MODEL_DIR

    return AutoModelForCausalLM.from_pretrained(MODEL_DIR)


def losses(model: Any) -> Iterator[torch.Tensor]:
    """Yield the loss on one batch of the world's conversations after the other."""
    from transformers import AutoTokenizer

    from corpus.recipe import MODEL_DIR, conversations

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    stream = conversations(5)
    tokens: Callable[..., Any] = tokenizer.apply_chat_template
    while True:
        rows = [tokens(next(stream), tokenize=True, return_dict=False) for _ in range(BATCH)]
        longest = max(len(row) for row in rows)
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        labels = padded.masked_fill(mask == 0, -100)
        yield model(input_ids=padded, attention_mask=mask, labels=labels).loss


if __name__ == "__main__":
    sys.exit(main())
