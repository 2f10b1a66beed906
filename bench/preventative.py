"""Preventative steering: its effect on a concept that an update would move, and on what the update teaches.

    python -m bench.preventative [--pairs night|world] [--behaviour listen] [--concept NAME] [--strength 20]
                                 [--seeds 5] [--json]

The embedded model learns one behaviour without its counter-behaviour, and that moves the concept's reading
on the monitor's probe set. The pairs are those that a night of the bundled conversations makes, or (`--pairs
world`) of the model's own answers to as many requests of the world. The pairs of a night are the model's own
samples. They differ between processors, and so does what they move, and which way. So a plain update with a
seed of its own goes first: it shows which concept moves most (without `--concept`), and whether its reading
rises or falls. Each seed is trained without and with the concept's vector added meanwhile, in the direction
in which that first update moved (arXiv 2507.21509); with the vector turned round; with a direction of no
meaning, of the same strength; and with the learning rate lowered, the plain way to drift less. Drift is in
spreads of the readings before; the pass rate is on 400 held-out scenarios, the same for every run.
"""

import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.model.steering.wire import Direction
from agents.trainer.messages import Example, Settings
from bench import _table
from bench._embedded import Embedded, observed
from corpus.world.concepts import CONCEPTS
from loop.verdict.rates import mcnemar

LAYER, WORLD, SCENARIOS = 2, 64, 400
SETTINGS = Settings(lr=1e-3, batch_size=16, beta=0.25)
"""The embedded model's own."""
CHANCE = "a direction of no meaning"
LOWER = 0.4
"""Share of the learning rate that the plain way takes."""


def main() -> int:
    """Print the table and check it against the goals."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--pairs", choices=("night", "world"), default="night")
    parser.add_argument("--behaviour", default="listen")
    parser.add_argument("--concept", choices=CONCEPTS, help="default: the one that moves most")
    parser.add_argument("--strength", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as directory:
        model = Embedded(Path(directory), layer=LAYER)
        if options.pairs == "world":
            pairs = model.pairs(options.behaviour, WORLD)
        else:
            pairs = model.pairs_of(observed(Path(directory) / "home", 0), options.behaviour)
        concept, moved = most_moved(model, pairs, options.concept, seed=options.seeds)
        strength = math.copysign(options.strength, moved)
        results = compared(model, pairs, options.behaviour, concept, strength, range(options.seeds))
    heads = ["training", f"drift of {concept}", options.behaviour, "of all concepts", "perplexity"]
    _table.show(
        f"{len(pairs)} pairs, {options.seeds} seeds: mean (least to most); steered by {strength:g}",
        heads,
        [_row(way, runs) for way, runs in results.items()],
    )
    plain, steered = results["plain"], results["steered"]
    drift = {way: statistics.mean(abs(run["drift"]) for run in runs) for way, runs in results.items()}
    gained, lost = (_flips(plain, steered, way) for way in (("0", "1"), ("1", "0")))
    _table.show(
        "steered against plain",
        ["gained", "lost", "p that it is not worse"],
        [[gained, lost, mcnemar(lost, gained)]],
    )
    goals = [
        _table.Goal(name="drift, steered / plain", found=drift["steered"] / drift["plain"], limit=0.85),
        _table.Goal(name="drift, steered / no meaning", found=drift["steered"] / drift[CHANCE], limit=0.9),
        _table.Goal(name="points of pass rate lost", found=100 * (_rate(plain) - _rate(steered)), limit=2.0),
    ]
    shown = {way: [{**run, "outcomes": None} for run in runs] for way, runs in results.items()}
    return _table.finish({"runs": shown}, goals, as_json=options.json)


def most_moved(
    model: Embedded, pairs: Sequence[Example], concept: str | None, *, seed: int
) -> tuple[str, float]:
    """Return the concept that a plain update moves most, or the one given, and how far it moves it."""
    model.train(pairs, SETTINGS, seed)
    drift = model.drift()
    name = concept or max(drift, key=lambda each: abs(drift[each]))
    return name, drift[name]


def compared(
    model: Embedded,
    pairs: Sequence[Example],
    behaviour: str,
    concept: str,
    strength: float,
    seeds: Sequence[int],
) -> dict[str, list[dict[str, Any]]]:
    """Run each way of training, seed by seed."""
    vector = model.vectors[CONCEPTS.index(concept)]
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        chance = np.random.default_rng(seed).normal(size=len(vector))
        ways: dict[str, tuple[float, tuple[Direction, ...]]] = {
            "plain": (1.0, ()),
            "steered": (1.0, (model.along(vector, strength),)),
            "turned round": (1.0, (model.along(vector, -strength),)),
            CHANCE: (1.0, (model.along(chance, strength),)),
            f"plain, {LOWER:g} of the rate": (LOWER, ()),
        }
        for way, (share, prevent) in ways.items():
            model.train(pairs, replace(SETTINGS, lr=share * SETTINGS.lr), seed, prevent)
            drift, outcomes = model.drift(), model.outcomes(behaviour, SCENARIOS)
            every = statistics.mean(abs(one) for one in drift.values())
            run = {"drift": drift[concept], "rate": outcomes.count("1") / len(outcomes), "every": every}
            results.setdefault(way, []).append(
                {**run, "perplexity": model.perplexity(), "outcomes": outcomes}
            )
    return results


def _rate(runs: Sequence[dict[str, Any]]) -> float:
    return statistics.mean(run["rate"] for run in runs)


def _flips(plain: Sequence[dict[str, Any]], steered: Sequence[dict[str, Any]], way: tuple[str, str]) -> int:
    """Count the scenarios that changed in this direction, over all seeds."""
    return sum(
        list(zip(one["outcomes"], two["outcomes"], strict=True)).count(way)
        for one, two in zip(plain, steered, strict=True)
    )


def _row(way: str, runs: Sequence[dict[str, Any]]) -> list[object]:
    return [way, *(_spread([run[key] for run in runs]) for key in ("drift", "rate", "every", "perplexity"))]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    sys.exit(main())
