"""The parts that all benches share: the machine's line, fair timing, tables, goals, and `--json`.

Invariant: rivals are timed in turn, in one process and one run, and the median is reported, as wall time
and as process CPU time; these machines are shared and noisy. Knows no bench.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Medians of one timed thing, in milliseconds."""

    wall_ms: float
    cpu_ms: float
    """Of the whole process, all threads together."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure that a bench must reach."""

    name: str
    found: float
    limit: float
    at_least: bool = False
    """Else at most."""

    @property
    def met(self) -> bool:
        """Return whether it is reached."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit


def parser(description: str | None, *, threads: int = 2) -> argparse.ArgumentParser:
    """Return a parser with the options that every bench has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--threads", type=int, default=threads, help="threads of a computation")
    return parser


def machine() -> dict[str, Any]:
    """Return the machine and the versions that the figures are measured with."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86: what Python says must do
        pass
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def interleaved(
    runs: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 1
) -> dict[str, Timing]:
    """Time these in turn, again and again; the first `warmup` rounds are not counted."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(warmup + repeats):
        for name, run in runs.items():
            wall_before, cpu_before = time.perf_counter(), time.process_time()
            run()
            cpu[name].append(time.process_time() - cpu_before)
            wall[name].append(time.perf_counter() - wall_before)
    return {
        name: Timing(
            wall_ms=1e3 * statistics.median(wall[name][warmup:]),
            cpu_ms=1e3 * statistics.median(cpu[name][warmup:]),
        )
        for name in runs
    }


def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown, with floats to three figures."""
    texts = [[_text(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in texts
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    _say(f"\n{title}\n\n" + "\n".join(lines))


def finish(result: Mapping[str, Any], goals: Sequence[Goal], *, as_json: bool) -> int:
    """Print the goals, the machine and, if requested, everything as one JSON line; return the exit code."""
    details = machine()
    if goals:
        rows = [
            [g.name, g.found, ("at least " if g.at_least else "at most ") + _text(g.limit), _met(g)]
            for g in goals
        ]
        show("goals", ["goal", "found", "limit", ""], rows)
    _say("\n" + ", ".join(f"{key}: {value}" for key, value in details.items()))
    if as_json:
        whole = {**result, "goals": [{**asdict(g), "met": g.met} for g in goals], "machine": details}
        _say(json.dumps(whole))
    return 0 if all(goal.met for goal in goals) else 1


def _met(goal: Goal) -> str:
    return "met" if goal.met else "MISSED"


def _text(cell: object) -> str:
    return (
        f"{cell:.3g}"
        if isinstance(cell, float) and abs(cell) < 1000
        else (f"{cell:.0f}" if isinstance(cell, float) else str(cell))
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
