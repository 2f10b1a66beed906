"""The verdict's two errors and its cost on simulated nights: no lesson, a harmed guard, a good update.

    python -m bench.verdict [--nights 1000] [--seeds 0] [--json]        (`make null`)

Each night has four targets and four guards with 400 scenarios each, and goes through the rounds of the real
verdict. A scenario is lost or gained with the chances of its kind, independently of the others. "as measured"
has the chances that the demonstration's nights had with 400 scenarios (losses 0.3 %); "noisy" has as many
turns by chance as the margins allow for (2 % each way); "harm" is one guard that falls by the named points.
The goals are the errors that docs/explanation/verdict.md states; where nothing is coupled none is stated for
good nights. --seeds N adds N nights of the demonstration, and N that train at a rate of almost nothing.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from bench import _table
from bench._table import Goal
from loop.verdict.behaviours import compare
from loop.verdict.claims import Claim, Paired, guards_among, margin_of, scenarios_after
from loop.verdict.decision import rule

ROUNDS = 6
TOKENS = 12
"""About the tokens of one answer in the demonstration: 78,172 for 6,400."""
Chances = tuple[float, float]
"""The chances that a scenario is lost, and that it is gained."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of night."""

    name: str
    target: Chances
    guard: Chances
    harmed: Chances | None = None
    """The chances of one of the guards, if it is harmed."""
    kept: bool = False
    """Whether such a night ought to be kept."""
    stated: bool = True
    """Whether the error is stated, so that it is a goal."""


@dataclass(kw_only=True)
class Tally:
    """What became of the nights of one kind."""

    kept: int = 0
    answers: list[int] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)


QUIET, NOISY, WILD = (0.003, 0.003), (0.02, 0.02), (0.08, 0.08)
KINDS = (
    Kind(name="null, nothing changed", target=(0.0, 0.0), guard=(0.0, 0.0)),
    Kind(name="null, noisy (2 % each way)", target=NOISY, guard=NOISY),
    Kind(name="null, no coupling (8 % each way)", target=WILD, guard=WILD),
    Kind(name="harm of 6 points, as measured", target=(0.0, 0.85), guard=(0.003, 0.05), harmed=(0.06, 0.0)),
    Kind(name="harm of 6 points, noisy", target=(0.0, 0.85), guard=NOISY, harmed=(0.08, 0.02)),
    Kind(name="harm of 10 points, noisy", target=(0.0, 0.85), guard=NOISY, harmed=(0.12, 0.02)),
    Kind(name="good, as measured", target=(0.003, 0.85), guard=(0.003, 0.05), kept=True),
    Kind(name="good, guards noisy", target=(0.02, 0.60), guard=NOISY, kept=True),
    Kind(name="good by 25 points, guards noisy", target=(0.02, 0.27), guard=NOISY, kept=True),
    Kind(name="good, no coupling (8 % each way)", target=(0.02, 0.60), guard=WILD, kept=True, stated=False),
)


def main() -> int:
    """Print the tables; return 1 when a goal is missed."""
    parser = _table.parser(__doc__)
    parser.add_argument("--nights", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=0)
    options = parser.parse_args()
    result, goals, rows = {}, [], []
    for kind in KINDS:
        tally = simulated(kind, options.nights)
        kept, answers = tally.kept / options.nights, statistics.median(tally.answers)
        error = 1 - kept if kind.kept else kept
        result[kind.name] = {"kept": kept, "answers": answers}
        spread = statistics.quantiles(tally.answers, n=20)[-1]
        rows.append([kind.name, kept, answers, spread, TOKENS * answers, statistics.mean(tally.rounds)])
        what = f"{kind.name}: {'refused' if kind.kept else 'kept'}"
        goals += [Goal(name=what, found=error, limit=0.05)] if kind.stated else []
    heads = ["kind", "kept", "answers, median", "95 %", "tokens, median", "rounds, mean"]
    guards = margin_of(Claim(behaviour="guard", scenarios=400), 4)
    _table.show(f"{options.nights} nights of each kind; margin of the guards {guards:.3f}", heads, rows)
    if options.seeds:
        nights = [real(seed, null=null) for null in (False, True) for seed in range(options.seeds)]
        _table.show("nights of the demonstration", ["night", "seed", "verdict", "tokens", "reasons"], nights)
    return _table.finish(result, goals, as_json=options.json)


def real(seed: int, *, null: bool) -> list[object]:
    """Return a row about a night of the demonstration; `null`: its update changes almost nothing."""
    command = [str(Path(sys.executable).with_name("nightschool")), "--json", "--home"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        subprocess.run([*command, str(home), "init", "--demo"], check=True, capture_output=True)
        if null:
            with (home / "config.toml").open("a") as config:
                config.write("\n[training]\nlr = 1e-12\n")
        done = subprocess.run(
            [*command, str(home), "night", "--seed", str(seed)], check=True, capture_output=True, text=True
        )
    night = json.loads(done.stdout)
    update = night["updates"][0]
    return [
        "null" if null else "good",
        seed,
        update["verdict"],
        night["tokens"]["verdict"],
        update["reasons"][0],
    ]


def simulated(kind: Kind, nights: int) -> Tally:
    """Return what became of so many nights."""
    tally, rng = Tally(), random.Random(f"verdict {kind.name}")
    for _ in range(nights):
        night(kind, rng, tally)
    return tally


def night(kind: Kind, rng: random.Random, tally: Tally) -> None:
    """Take one night through the rounds of its verdict."""
    claims = {
        f"{role} {number}": Claim(behaviour=f"{role} {number}", meant=role == "target", scenarios=400)
        for role in ("target", "guard")
        for number in range(4)
    }
    chances = {name: kind.target if claim.meant else kind.guard for name, claim in claims.items()}
    if kind.harmed is not None:
        chances["guard 0"] = kind.harmed
    guards, names = guards_among(claims.values()), tuple(claims)
    outcomes: dict[str, tuple[str, str]] = dict.fromkeys(claims, ("", ""))
    for round_ in range(ROUNDS):
        for name in names:
            wanted = scenarios_after(claims[name], round_, guards=guards, rounds=ROUNDS)
            before, after = outcomes[name]
            more = [turned(chances[name], rng) for _ in range(wanted - len(before))]
            outcomes[name] = (before + "".join(m[0] for m in more), after + "".join(m[1] for m in more))
        tests = compare(
            [
                Paired(claim=claim, before=outcomes[name][0], after=outcomes[name][1])
                for name, claim in claims.items()
            ]
        )
        ruled = rule(tests, [], last_round=round_ + 1 == ROUNDS)
        if ruled.decision != "inconclusive":
            break
        names = ruled.again
    tally.kept += ruled.decision == "keep"
    tally.answers.append(2 * sum(len(before) for before, _ in outcomes.values()))
    tally.rounds.append(round_ + 1)


def turned(chances: Chances, rng: random.Random) -> tuple[str, str]:
    """Return one scenario's outcomes before and after."""
    lost, gained = chances
    drawn = rng.random()
    return ("1", "0") if drawn < lost else ("0", "1") if drawn < lost + gained else ("1", "1")


if __name__ == "__main__":
    sys.exit(main())
