"""Run benches one after the other; optionally store their output in bench/RESULTS.md.

    python -m bench [NAME ...] [--write]        (`make bench`, `make bench BENCHES=optimizer`)

Invariant: a section of RESULTS.md is the output of one run of one bench, with its command; nothing is typed
in by hand. A page of docs/ that has a place for a bench's tables gets them too; a bench that could measure
nothing here leaves what is there. Ends with 1 when a bench missed a goal or failed.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
NAMES = sorted(path.stem for path in HERE.glob("[!_]*.py"))
DOCS = HERE.parent / "docs"
HEAD = (
    "# Results\n\n"
    "Each section is the output of the command under its title. "
    "The machines are shared and noisy: trust the ratios, whose\n"
    "two sides were timed alternately in one run, more than the milliseconds.\n"
)


def main() -> int:
    """Run the requested benches."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--write", action="store_true", help="put the output into bench/RESULTS.md")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    failed = [name for name in options.names or NAMES if not _run(name, write=options.write)]
    if failed:
        sys.stderr.write(f"missed a goal or failed: {', '.join(failed)}\n")
    return 1 if failed else 0


def _run(name: str, *, write: bool) -> bool:
    """Run one bench; return whether it met its goals."""
    command = [sys.executable, "-m", f"bench.{name}"]
    sys.stdout.write(f"\n{name}\n")
    lines = []
    with subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    if write:
        _keep(name, "".join(lines).strip())
    return process.returncode == 0


def _keep(name: str, output: str) -> None:
    """Replace or add this bench's section."""
    if "\n|" not in output and RESULTS.exists() and f"\n## {name}\n" in RESULTS.read_text():
        return  # no table: what it needs is not here
    sections = {}
    if RESULTS.exists():
        for part in re.split(r"^## ", RESULTS.read_text(), flags=re.MULTILINE)[1:]:
            title, _, body = part.partition("\n")
            sections[title.strip()] = body.strip()
    sections[name] = f"`python -m bench.{name}`\n\n{output}"
    body = "\n\n".join(f"## {title}\n\n{sections[title]}" for title in sorted(sections))
    RESULTS.write_text(f"{HEAD}\n{body}\n")
    begin, end = f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"
    for page in DOCS.rglob("*.md"):
        before, place, rest = page.read_text().partition(begin)
        if place and "\n|" in output:
            page.write_text(f"{before}{begin}\n\n{output}\n\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    sys.exit(main())
