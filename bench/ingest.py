"""How many turns a second an ingest reads, where the time goes, and how much memory a large file takes.

    python -m bench.ingest [--turns 60000] [--megabytes 200] [--folder DIR] [--json]

The log is synthetic: chats as OpenAI messages, four turns each, of ordinary lengths. `stored` is an ingest
without the search for secrets, which an ingest never leaves out: it shows what the rest costs. `ingest` is
what the command does. `with signals` also finds the signals of every conversation, as the service does
later; the rows of the signals are not stored. Rates and shares are by the processor's time of this process,
because these machines are shared. The growth is that of the largest resident set while a file of
`--megabytes` is read, in which the turns are longer.
"""

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from agents.extractor.rules import find
from agents.ingest import read, records
from agents.ingest.read import read_log
from bench import _table
from corpus.conversation import Conversation
from store.conversations import batch
from store.ledger.db import Ledger, database_url

STORED_GOAL, WHOLE_GOAL, MEMORY_GOAL = 25_000, 6_000, 300
LONG = 25
"""How often a text is repeated in the large file."""

WORDS = (
    "the lathe runs again after oil and patience so please check whether every screw holds before noon "
    "because nobody wants to mend it twice this week and the manual says that a belt of leather slips "
    "when it is cold which explains what you saw yesterday in the corner near the window"
).split()


def main() -> int:
    """Print the tables."""
    parser = _table.parser(__doc__)
    parser.add_argument("--turns", type=int, default=60_000, help="turns of the log that is timed")
    parser.add_argument("--megabytes", type=int, default=200, help="file of the memory; 0 for none")
    parser.add_argument("--folder", type=Path, help="where to write; default: the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        log = written(folder / "log.jsonl", turns=options.turns)
        rates = {
            "stored": rate(folder, log, options.turns, scrub=False),
            "ingest": rate(folder, log, options.turns),
            "with signals": rate(folder, log, options.turns, signals=True),
        }
        _table.show(
            f"{options.turns:,} turns, {log.stat().st_size / 2**20:.0f} MiB",
            ["", "turns a second"],
            [[name, round(figure)] for name, figure in rates.items()],
        )
        shares = where(folder, log)
        _table.show("where the time of an ingest goes", ["", "%"], [[k, 100 * v] for k, v in shares.items()])
        log.unlink()
        grown = memory(folder, options.megabytes) if options.megabytes else 0.0
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        heads = ["file, MiB", "growth, MiB", "most of the process, torch included, MiB"]
        _table.show("memory", heads, [[options.megabytes, grown, most]])
    goals = [
        _table.Goal(name="stored, turns/s", found=rates["stored"], limit=STORED_GOAL, at_least=True),
        _table.Goal(
            name="with signals, turns/s", found=rates["with signals"], limit=WHOLE_GOAL, at_least=True
        ),
        _table.Goal(name="memory, MiB", found=grown, limit=MEMORY_GOAL),
    ]
    return _table.finish({"rates": rates, "shares": shares, "grown": grown}, goals, as_json=options.json)


def written(path: Path, *, turns: int = 0, megabytes: int = 0) -> Path:
    """Write a log of this many turns, or of this size with longer turns, and return its path."""
    draw = random.Random(7)
    with path.open("w") as file:
        done = 0
        while done < turns or file.tell() < megabytes << 20:
            file.write(line(draw, done, times=LONG if megabytes else 1) + "\n")
            done += 4
    return path


def line(draw: random.Random, number: int, times: int) -> str:
    """Return a conversation of four turns: short requests, longer answers; each text is repeated."""
    said = []
    for turn in range(4):
        length = min(300, int(draw.lognormvariate(3 if turn % 2 else 2.3, 0.8)) + 2)
        said.append(" ".join(draw.choices(WORDS, k=length) * times))
    messages = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(said)]
    return json.dumps({"user": f"user-{number % 17}", "messages": messages})


def rate(folder: Path, log: Path, turns: int, *, scrub: bool = True, signals: bool = False) -> float:
    """Return the turns a second of an ingest into a new ledger on the disk, by the processor's time."""
    with ledger_in(folder) as ledger, ExitStack() as stack:
        found: list[Conversation] = []
        if not scrub:
            stack.enter_context(mock.patch.object(batch, "scrub_conversation", lambda each, _: each))
        began = time.process_time()
        if signals:
            clean = batch.scrub_conversation
            noted = mock.Mock(side_effect=lambda each, by: found.append(each) or clean(each, by))
            stack.enter_context(mock.patch.object(batch, "scrub_conversation", noted))
        added = 0
        for report in read_log(ledger, log):
            added += report.turns
            for conversation in found:
                find(conversation.turns)
            found.clear()
        assert added == turns, f"{added} of {turns} turns were added"
        return turns / (time.process_time() - began)


@contextmanager
def ledger_in(folder: Path) -> Iterator[Ledger]:
    """Yield a new ledger on the disk, as a home has it."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        ledger = Ledger(database_url(Path(home)))
        try:
            yield ledger
        finally:
            ledger.close()


def where(folder: Path, log: Path) -> dict[str, float]:
    """Return the share of the time that each part of an ingest takes."""
    spent: dict[str, float] = {}

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **more: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **more)
            finally:
                spent[name] = spent.get(name, 0.0) + time.process_time() - began

        return run

    parts = {
        "json": (records, "value_of"),
        "reader": (records, "own_parts"),
        "scrub": (batch, "scrub_conversation"),
        "hash": (batch, "digests_of"),
        "all": (read, "_commit"),
    }
    with ledger_in(folder) as ledger, ExitStack() as stack:
        for name, (module, function) in parts.items():
            stack.enter_context(mock.patch.object(module, function, clocked(name, getattr(module, function))))
        began = time.process_time()
        for _ in read_log(ledger, log):
            pass
        whole = time.process_time() - began
    spent["SQL"] = spent.pop("all") - spent["scrub"] - spent["hash"]
    shares = {name: spent[name] / whole for name in ("json", "reader", "scrub", "hash", "SQL")}
    return {**shares, "rest": 1 - sum(shares.values())}


def memory(folder: Path, megabytes: int) -> float:
    """Return by how many MiB the resident set grows at most while a file of this size is read."""
    log = written(folder / "large.jsonl", megabytes=megabytes)
    with ledger_in(folder) as ledger:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in read_log(ledger, log):
            pass
    log.unlink()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    sys.exit(main())
