"""Run a service for hours, with users and a night an hour, and look whether it holds on to memory or files.

    python tests/loop/soak.py [--hours 8] [--minutes-a-night 60]        (`make soak HOURS=8`)

After each night the resident memory and the open descriptors of the service and of its two children are
printed. The first night loads what is loaded once, so the figures after it are the measure: at the end the
memory may be 5 % larger, and the descriptors are as many.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

from small import Service, cli_json, correction_lines, small_home, start_service

LOOK_S = 1.0
"""Between two questions of the user."""
GROWTH = 1.05
"""Most memory at the end, as a multiple of that after the first night."""
Figures = dict[str, tuple[int, int]]


def family(pid: int) -> dict[str, int]:
    """Return the process ids of a service and its children by their modules."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    named = {"service": pid}
    for child in map(int, children):
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        named[next((word for word in words if word.startswith("agents.")), words[0])] = child
    return named


def figures(pid: int) -> Figures:
    """Return resident kilobytes and open descriptors of each process, by its name."""
    found = {}
    for name, one in family(pid).items():
        status = dict(line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
        found[name] = int(status["VmRSS"].split()[0]), len(os.listdir(f"/proc/{one}/fd"))
    return found


def soak(hours: float, minutes: float, say: Callable[[str], object]) -> list[str]:
    """Run the service for these hours, with a night each so many minutes; return what has grown."""
    with tempfile.TemporaryDirectory() as folder:
        home = small_home(Path(folder) / "home")
        service = start_service(home, Path(folder) / "service.log")
        try:
            service.ready()
            return _nights(service, home, Path(folder), hours, minutes, say)
        finally:
            service.process.terminate()
            service.process.wait(60)


def _nights(
    service: Service, home: Path, folder: Path, hours: float, minutes: float, say: Callable[[str], object]
) -> list[str]:
    """Do what `soak` does with a service that runs."""
    end, number, first = monotonic() + hours * 3600, 0, Figures()
    while monotonic() < end or number < 2:
        number += 1
        log = folder / f"{number}.jsonl"
        log.write_text("".join(f"{line}\n" for line in correction_lines("decision", 8, seed=number)))
        cli_json(home, "ingest", log)
        night = cli_json(home, "night", "--retry")
        began, asked = monotonic(), 0
        while monotonic() < min(end, began + minutes * 60):
            cli_json(home, "ask", f"I have decided to paint the door {asked}.")
            asked += 1
            sleep(LOOK_S)
        now = figures(service.process.pid)
        first = first or now
        say(f"night {number}: {night['reasons'][:1]}, {asked} answers; " + _shown(now))
    return [
        f"{name}: {first.get(name)} -> {now[name]} (kB, descriptors)"
        for name in now
        if name not in first or now[name][0] > GROWTH * first[name][0] or now[name][1] != first[name][1]
    ]


def _shown(found: Figures) -> str:
    return ", ".join(f"{name} {kb / 1024:.0f} MB, {files} descriptors" for name, (kb, files) in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--minutes-a-night", type=float, default=60.0)
    given = parser.parse_args()
    grown = soak(given.hours, given.minutes_a_night, lambda line: print(line, flush=True))  # noqa: T201
    sys.exit("\n".join(grown) if grown else 0)


if __name__ == "__main__":
    main()
