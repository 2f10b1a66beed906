"""Steering as a prediction of training: sweeps of behaviours' vectors, and the result of a night.

    python -m bench.steering_predicts [--seed 0] [--chance 3] [--json]

A home with the bundled conversations dreams of them for one night and trains nothing. From the attempts of
that night `nightschool readout behaviour` makes a vector for each behaviour, sweeps it and predicts; then a
night trains. As a control, directions of no meaning are swept in the same way: any strong push shakes a
habit, so what counts is whether the slope of a behaviour's own vector is beyond all of theirs.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.model.steering.concept_vectors import ConceptVectors, read, write
from agents.model.steering.directions import BEHAVIOURS
from bench import _table
from bench._embedded import command, observed, set_training

NAMES = ("ask", "brief", "direct", "listen")


def main() -> int:
    """Print the tables and check them against the goal."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chance", type=int, default=3, help="directions of no meaning to sweep")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as directory:
        home = observed(Path(directory) / "home", options.seed)
        foretold = {
            name: command(home, "readout", "behaviour", name, "--seed", str(options.seed)) for name in NAMES
        }
        chance = swept_by_chance(home, options.chance, options.seed)
        set_training(home, enabled=True)
        night = command(home, "night", "--seed", str(options.seed))
        why = command(home, "ledger", "why", night["updates"][0]["id"])
    did = {one["behaviour"]: one["updates"][0] for one in why["predictions"]}
    rows = [_row(name, foretold[name]["sweep"], did[name]) for name in NAMES]
    _table.show(
        f"behaviours' vectors after layer {foretold['ask']['layer']}, seed {options.seed}, update "
        f"{night['updates'][0]['verdict']}",
        [
            "behaviour",
            "dreams",
            "unsteered",
            "best strength",
            "there",
            "slope (points a unit)",
            "said",
            "trained",
            "true",
        ],
        [[name, foretold[name]["dreams"], *row] for name, row in zip(NAMES, rows, strict=True)],
    )
    _table.show(
        "directions of no meaning",
        ["behaviour", "unsteered", "best strength", "there", "slope", "said"],
        chance,
    )
    true = sum(did[name]["came_true"] == "yes" for name in NAMES)
    goals = [_table.Goal(name="behaviours foretold, of 4", found=true, limit=3, at_least=True)]
    if chance:
        most = max(abs(float(str(row[4]))) for row in chance)
        beyond = sum(100 * foretold[name]["sweep"]["slope"] > most for name in NAMES)
        goals.append(
            _table.Goal(name="slopes beyond all by chance, of 4", found=beyond, limit=3, at_least=True)
        )
    return _table.finish({"foretold": foretold, "did": did}, goals, as_json=options.json)


def swept_by_chance(home: Path, count: int, seed: int) -> list[list[object]]:
    """Sweep random directions at the strengths of the behaviours' own vectors."""
    place = home / "readout" / BEHAVIOURS
    known = read(place)
    assert known is not None
    names = tuple(f"chance_{number}" for number in range(count))
    drawn = np.random.default_rng(seed).normal(size=(1, count, known.hidden_size)).astype(np.float32)
    both = np.concatenate([known.values, drawn], axis=1)
    write(place, ConceptVectors(**{**vars(known), "concepts": (*known.concepts, *names), "values": both}))
    chosen = [part for name in NAMES for part in ("--behaviour", name)]
    rows: list[list[object]] = []
    for name in names:
        sweeps = command(home, "readout", "sweep", name, *chosen, "--seed", str(seed))["sweeps"]
        rows += [[sweep["behaviour"], *_figures(sweep)] for sweep in sweeps]
    return rows


def _row(name: str, sweep: Any, did: Any) -> list[object]:
    before, after = did["before"], did["after"]
    return [
        *_figures(sweep),
        f"{before['passed']} -> {after['passed']} of {after['trials']}",
        did["came_true"],
    ]


def _figures(sweep: Any) -> list[object]:
    rows = [row for row in sweep["strengths"] if not row["broken"]]
    zero = next(row for row in rows if row["strength"] == 0)
    best = max(rows, key=lambda row: row["passed"])
    slope = f"{100 * sweep['slope']:+.3f}"
    return [f"{zero['passed']}/{zero['trials']}", best["strength"], best["passed"], slope, sweep["verdict"]]


if __name__ == "__main__":
    sys.exit(main())
