"""Kill nights and services at ledger commits, start them again, and look for anything that went wrong.

    python tests/loop/chaos.py [--kills 25] [--seed S]        (`make chaos`)

Every draw comes from the seed, which is printed. What a home comes to is compared, row by row, with the home
of a night that nobody disturbed: exactly-once effect means that the ledgers are equal but for times and
processes.
"""

import argparse
import json
import os
import random
import resource
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from corpus.aliases import Json
from store.checkpoints.store import CheckpointStore
from store.home import Home

Say = Callable[[str], object]

ROOT = Path(__file__).parent.parent.parent
KILLABLE = Path(__file__).with_name("killable.py")
CONVERSATIONS = ROOT / "corpus" / "conversations" / "workshop.jsonl"
CONVERSATIONS_READ = 14
"""Conversations of the log that a small night hears: lessons for three habits."""
CONFIG = """
[schedule]
windows = []
[dreams]
per_night = 40
[pairs]
attempts = 4
minimum = 8
[verdict]
scenarios = 40
max_rounds = 1
margin = 0.95
perplexity = 2.0
drift = 100.0
joint_drift = 100.0
"""
"""A night of a few seconds, whose update is kept if it teaches anything."""
SCHEDULED = "\n[schedule]\nwindows = ['00:00-24:00']\nmin_lessons = {lessons}\nsettle_seconds = 0.2\n"
LOOK_S = 0.02
"""Between two looks at something that has no other way of telling."""
NIGHT_S, START_S, STOP_S, GONE_S = 300.0, 120.0, 5.0, 20.0
"""Deadlines: a night, a start, a clean stop (promised), and the end of a killed service's children."""
OPENING = 2
"""Commits of a command before it does any work: leases are released, the night is begun."""
PASSING = {"at", "time", "started", "finished", "seq", "holder", "metrics"}
"""Columns that may differ between two nights: times, processes, and speeds."""
DRAWN = ("home",)
"""Rows of `meta` that are drawn at random when a home is made."""
_ticks = threading.Event()


def wait_until(condition: Callable[[], Any], what: str, seconds: float) -> Any:
    """Return the first true value of this condition; fail after so many seconds."""
    deadline = monotonic() + seconds
    while not (value := condition()):
        assert monotonic() < deadline, f"no sign within {seconds:.0f} s of this: {what}"
        _ticks.wait(LOOK_S)
    return value


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A kill that is planned for one commit."""

    commit: int
    """At which commit of the process, from 1; 0 for never."""
    moment: str = "before"
    victims: str = "all"

    def __str__(self) -> str:
        who = "everybody" if self.victims == "all" else "the service alone"
        return f"{who} killed {self.moment} commit {self.commit}"


NEVER = Kill(commit=0)


def draw_kill(draw: random.Random, commit: int) -> Kill:
    """Return a kill at this commit, with the rest drawn."""
    return Kill(
        commit=commit, moment=draw.choice(("before", "after")), victims=draw.choice(("all", "service"))
    )


# ---------------------------------------------------------------- processes


def alive(session: int) -> list[int]:
    """Return the living processes of a session: a command and all its children."""
    pids = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                state, _, _, its_session = (place / "stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(its_session) == session and state not in "ZX":
                pids.append(int(place.name))
    return pids


def child_of(session: int, module: str) -> int:
    """Return the process of this session that runs this module; 0 while there is none."""
    for pid in alive(session):
        try:
            if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    return 0


@dataclass
class Running:
    """A command in a session of its own."""

    process: subprocess.Popen[str]
    home: Path
    folder: Path
    """Where its output and its number of commits are."""
    commits: int = 0

    def ended(self, seconds: float = NIGHT_S) -> int:
        """Return its exit code, once it and all its children have ended."""
        code = self.process.wait(seconds)
        wait_until(
            lambda: not alive(self.process.pid), f"the children of {self.process.args} have gone", GONE_S
        )
        count = self.folder / "commits"
        self.commits = int(count.read_text()) if count.exists() else 0
        return code

    def output(self) -> str:
        return (self.folder / "out").read_text()

    def log(self) -> str:
        return (self.folder / "err").read_text()

    def wait_until(self, condition: Callable[[], Any], what: str, seconds: float) -> Any:
        """Wait for a true value while the command runs; fail if it ends before."""
        value = wait_until(lambda: condition() or self.process.poll() is not None, what, seconds)
        assert self.process.poll() is None, f"ended with {self.process.poll()} before {what}:\n{self.log()}"
        return value

    def stop(self) -> None:
        """Send SIGTERM, which must end the command within STOP_S."""
        began = monotonic()
        self.process.terminate()
        code = self.ended(GONE_S)
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.log()}"
        assert monotonic() - began < STOP_S, f"SIGTERM took {monotonic() - began:.1f} s"


@dataclass
class Place:
    """A home, and the commands that were run on it."""

    path: Path
    running: list[Running] = field(default_factory=list)

    def start(self, *arguments: str, kill: Kill = NEVER, limit: int = -1, **more: str) -> Running:
        """Start a command; `limit` is the largest size of its files in bytes, `more` its environment."""
        folder = Path(tempfile.mkdtemp(prefix="command-", dir=self.path.parent))
        kill_arguments = [str(kill.commit), kill.moment, kill.victims, str(folder / "commits")]
        command = [sys.executable, str(KILLABLE), *kill_arguments, "--", "--home", str(self.path), *arguments]
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
                env={**os.environ, **more},
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
            )
        self.running.append(Running(process=process, home=self.path, folder=folder))
        return self.running[-1]

    def do(self, *arguments: str) -> Json:
        """Run a command to its end; return its JSON."""
        command = self.start("--json", *arguments)
        code = command.ended()
        assert code == 0, f"{arguments} ended with {code}:\n{command.output()}\n{command.log()}"
        answer: Json = json.loads(command.output())
        return answer

    def kill_all(self) -> None:
        """Kill whatever a failed test has left running."""
        for command in self.running:
            if alive(command.process.pid):
                os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()

    def copy(self, path: Path) -> "Place":
        """Copy the home, with its history, to another path."""
        shutil.copytree(self.path, path)
        return Place(path)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows of the ledger, also while another process writes it."""
        with closing(sqlite3.connect(f"file:{self.path / 'ledger.db'}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA busy_timeout = 30000")
            return connection.execute(query).fetchall()

    def works_done(self) -> int:
        return int(self.ask("SELECT count(*) FROM work WHERE state = 'done'")[0][0])

    def active(self) -> str:
        return str(self.ask("SELECT checkpoint_id FROM pointers ORDER BY seq DESC LIMIT 1")[0][0])

    def rows(self) -> dict[str, list[str]]:
        """Return all rows of the ledger without times and processes, in a fixed order."""
        with closing(sqlite3.connect(self.path / "ledger.db")) as connection:
            connection.row_factory = sqlite3.Row
            tables = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            return {name: sorted(_texts(connection.execute(f"SELECT * FROM {name}"))) for name in tables}


def _texts(rows: Iterable[sqlite3.Row]) -> Iterator[str]:
    for row in rows:
        fields = {name: row[name] for name in row.keys() if name not in PASSING}
        if fields.get("key") in DRAWN:
            continue
        yield json.dumps(fields, default=bytes.hex)


# ---------------------------------------------------------------- what has to hold


def faults(place: Place) -> list[str]:
    """Return what is wrong with a home that no process holds."""
    problems = [f"process {pid} is left" for command in place.running for pid in alive(command.process.pid)]
    run_dir = Home(place.path).run_dir
    problems += [f"{path} is left" for path in ([run_dir, *run_dir.iterdir()] if run_dir.exists() else [])]
    integrity = place.ask("PRAGMA integrity_check")
    if integrity != [("ok",)]:
        problems.append(f"the ledger is damaged: {integrity}")
    twice = """SELECT p.pair_id, count(*) FROM update_pairs p JOIN updates u ON u.id = p.update_id
               WHERE u.state = 'kept' AND NOT p.replay GROUP BY p.pair_id HAVING count(*) > 1"""
    problems += [f"pair {pair} is new in {count} kept updates" for pair, count in place.ask(twice)]
    unfinished = place.ask("SELECT kind, subject, state, error FROM work WHERE state != 'done'")
    problems += [f"unfinished work: {row}" for row in unfinished]
    known = [checkpoint for (checkpoint,) in place.ask("SELECT id FROM checkpoints")]
    store = CheckpointStore(place.path / "checkpoints")
    problems += [f"damaged: {fault.path}: {fault.problem}" for fault in store.verify(known)]
    return problems + [f"orphan: {path}" for path in store.sweep(known)]


def differences(place: Place, other: dict[str, list[str]]) -> list[str]:
    """Return how this home's ledger differs from another, with some rows of each table."""
    mine, lines = place.rows(), []
    for table in sorted(mine.keys() | other.keys()):
        ours, theirs = mine.get(table, []), other.get(table, [])
        if ours != theirs:
            less = [row[:300] for row in theirs if row not in ours][:3]
            more = [row[:300] for row in ours if row not in theirs][:3]
            lines.append(f"{table}: {len(ours)} rows, not {len(theirs)}; missing {less}; besides {more}")
    return lines


# ---------------------------------------------------------------- what is done to a home


def small_log(folder: Path) -> Path:
    """Write a log for a small night."""
    log = folder / "log.jsonl"
    log.write_text("".join(CONVERSATIONS.read_text().splitlines(keepends=True)[:CONVERSATIONS_READ]))
    return log


def prepared_home(folder: Path) -> Place:
    """Make a home that has read the small log and has not begun its night."""
    place = Place(folder / "prepared_home")
    place.do("init")
    (place.path / "config.toml").write_text(CONFIG)
    place.do("ingest", str(small_log(folder)))
    return place


def kill_until_done(
    place: Place, draw: random.Random, commits: int, kills: int, say: Say, *arguments: str
) -> int:
    """Run a short command, killed at drawn commits, and then to its end; return the number of kills."""
    killed = 0
    for _ in range(kills):
        kill = draw_kill(draw, draw.randint(1, commits))
        code = place.start(*arguments, kill=kill).ended()
        killed += code == -signal.SIGKILL
        say(f"{arguments[0]}: {kill}: exit {code}")
    place.do(*arguments)
    return killed


def kill_nights(place: Place, draw: random.Random, kills: int, works: int, say: Say) -> Json:
    """Run a night that is killed so often, over its whole length, and let it end; return its report.

    works: pieces of work of the whole night. A kill falls on the lease or on the outcome of a drawn piece of
    work, or, where two draws come close, on the start of the next attempt.
    """
    done = place.works_done()
    for target in sorted(draw.choices(range(done, works), k=kills)):
        done = place.works_done()
        kill = draw_kill(draw, 2 * max(0, target - done) + draw.randint(1, OPENING + 2))
        command = place.start("--json", "night", kill=kill)
        code = command.ended()
        say(f"night, {done} of {works} done: {kill}: exit {code}")
        assert code == -signal.SIGKILL, f"{kill} did not come to pass: exit {code}\n{command.log()}"
    return place.do("night")


def kill_services(place: Place, draw: random.Random, kills: int, works: int, say: Say) -> None:
    """Run a service that is killed so often, until an update is kept; then end it cleanly.

    The counts are rough: a service also commits what it hears and what it looks for, so a kill may not come
    to pass before the update is kept. Then there is nothing left to disturb.
    """
    for target in sorted(draw.choices(range(works), k=kills)):
        done = place.works_done()
        kill = draw_kill(draw, 2 * max(0, target - done) + draw.randint(1, OPENING + 2))
        command = place.start("run", kill=kill)
        wait_until(
            lambda command=command: command.process.poll() is not None or has_learnt(place),
            "a night",
            NIGHT_S,
        )
        if command.process.poll() is None:
            say(f"service, {done} of {works} done: {kill}: too late")
            command.stop()
            return
        code = command.ended()
        say(f"service, {done} of {works} done: {kill}: exit {code}")
        assert code == -signal.SIGKILL, f"{kill} did not come to pass: exit {code}\n{command.log()}"
    command = place.start("run")
    command.wait_until(lambda: has_learnt(place), "a night with a kept update", NIGHT_S)
    command.stop()


def has_learnt(place: Place) -> bool:
    """Return whether a night of the home has ended with a kept update."""
    kept = (
        "SELECT 1 FROM updates u JOIN nights n ON n.id = u.night_id "
        "WHERE u.state = 'kept' AND n.state = 'done'"
    )
    return bool(place.ask(kept))


def learning_home(path: Path, lessons: int) -> Place:
    """Make an empty home whose service learns by itself after so many lessons."""
    place = Place(path)
    place.do("init")
    text = CONFIG.replace("\n[schedule]\nwindows = []\n", SCHEDULED.format(lessons=lessons))
    (place.path / "config.toml").write_text(text)
    return place


def lessons_of(place: Place) -> int:
    """Return the number of lessons that the night took up."""
    return int(place.ask("SELECT count(*) FROM signals WHERE night_id IS NOT NULL")[0][0])


@contextmanager
def cleaned_up(place: Place) -> Iterator[Place]:
    """Yield the place, and kill whatever still runs on it afterwards."""
    try:
        yield place
    finally:
        place.kill_all()


# ---------------------------------------------------------------- make chaos


def main() -> int:
    """Run the long form; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=25, help="kills of the night; other commands get some more"
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    options = parser.parse_args()
    say(
        f"seed {options.seed}: make chaos CHAOS_SEED={options.seed} CHAOS_KILLS={options.kills} "
        "does the same again"
    )
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        wrong = list(_chaos(Path(name), random.Random(options.seed), options.kills))
    for line in wrong:
        say(f"WRONG: {line}")
    say(f"seed {options.seed}: {len(wrong)} wrong" if wrong else f"seed {options.seed}: nothing wrong")
    return 1 if wrong else 0


def _chaos(folder: Path, draw: random.Random, kills: int) -> Iterator[str]:
    """Disturb every command, night and service; yield what went wrong."""
    with (
        cleaned_up(prepared_home(folder)) as start,
        cleaned_up(start.copy(folder / "undisturbed")) as undisturbed,
    ):
        report = undisturbed.do("night")
        say(f"undisturbed: {report['updates'][0]['verdict']}, checkpoint {undisturbed.active()[:12]}")
        yield from faults(undisturbed)
        expected, works = undisturbed.rows(), undisturbed.works_done()
    with cleaned_up(Place(folder / "disturbed")) as place:
        init, ingest = (command.commits for command in start.running)
        kill_until_done(place, draw, init, 3, say, "init")
        (place.path / "config.toml").write_text(CONFIG)
        kill_until_done(place, draw, ingest, 3, say, "ingest", str(folder / "log.jsonl"))
        kill_nights(place, draw, kills, works, say)
        yield from faults(place)
        yield from differences(place, expected)
        place.do("night")  # there is nothing new: whatever was new in a kept update stays used
        yield from faults(place)
    with cleaned_up(learning_home(folder / "learning_home", lessons_of(undisturbed))) as place:
        shutil.copy(folder / "log.jsonl", place.path / "inbox" / "log.jsonl")
        kill_services(place, draw, max(1, kills // 4), works, say)
        yield from faults(place)
        if place.active() != undisturbed.active():
            yield f"the service came to {place.active()}, the undisturbed night to {undisturbed.active()}"


def say(line: str) -> None:
    """Print one line of the long form's report."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
