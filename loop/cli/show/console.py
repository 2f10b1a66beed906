"""The console for stdout, the console for stderr with progress bars and logs, and the formats of figures.

Invariant: a progress bar or a log line never reaches stdout. No text acts on the terminal: every string is
printed by `Screen`, which shows controls as escapes and knows no markup. Only a `Text` of our own has a
style.
"""

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, Protocol, TextIO, cast

import structlog
from rich.cells import set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from corpus.text import visible
from loop.verdict.rates import interval

if TYPE_CHECKING:
    from loop.engine.worker import Listener
    from store.home import Home

LINE_S = 30.0
"""Shortest time between two lines on one stage, in seconds, where stderr is no terminal."""
LABELS = {
    "start": "starting the model",
    "extract": "finding lessons",
    "listen": "reading the model's states in",
    "propose": "choosing pairs for the",
    "dream": "dreaming",
    "attempt": "answering dreams",
    "measure": "measuring",
    "train": "training",
    "build": "building",
    "import": "making the model ready",
    "readout": "reading the concepts' texts",
}
"""The label of each kind of work on a progress bar."""


def _is_terminal(stream: IO[str] | None) -> bool:
    """Return whether a stream is a terminal; a closed one is none."""
    return stream is not None and not stream.closed and stream.isatty()


class Screen(Console):
    """A console for text from outside: a string is shown as it is, in one line, with controls as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text without style; every string passes through here, also those in a table."""
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False})


def cells(text: str, width: int) -> str:
    """Return a text from outside, cut or padded to exactly this number of columns."""
    return set_cell_size(visible(text), width)


out = Screen(highlight=False, markup=False, emoji=False, width=None if _is_terminal(sys.stdout) else 140)
err = Screen(stderr=True, highlight=False, markup=False, emoji=False)


def set_up_logs() -> None:
    """Send log messages to stderr, one line for each."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    # When a client disconnects, asyncio would log a warning for every further piece of its answer.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            _shown,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # A function that looks up stderr each time, because stderr may be replaced later.
        logger_factory=lambda *_: structlog.PrintLogger(cast(TextIO, _Unfailing(sys.stderr))),
    )


class _Unfailing:
    """A stream for logs: what cannot be written is lost, because a full disk must not end a service."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write a text, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def _shown(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Show the controls in the strings of a log line; the lines of a traceback stay lines."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = visible(value, keep="\n\t" if name == "exception" else "")
    return event


def ready(home: "Home", port: int) -> None:
    """Log that the service is ready, and its address."""
    structlog.get_logger().info(
        "ready", home=str(home.path), url=f"http://127.0.0.1:{port}/v1", token_file=str(home.token_file)
    )


@contextmanager
def progress() -> Iterator["Listener"]:
    """Yield a function that receives progress, and show a bar for each stage on stderr.

    If stderr is not a terminal, lines are printed instead.
    """
    if not err.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description:28}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=err) as display:

        def listen(kind: str, subject: str, done: int, total: int) -> None:
            name = visible(_stage(kind, subject))
            if total < 1:
                return
            if name not in bars:
                bars[name] = display.add_task(name, total=total)
            display.update(bars[name], completed=done, total=total)

        yield listen


def _lines() -> "Listener":
    """Return a function that receives progress and prints lines: at each stage's ends and between."""
    begun: dict[str, float] = {}
    ended: set[str] = set()
    said = 0.0

    def listen(kind: str, subject: str, done: int, total: int) -> None:
        nonlocal said
        name, now = _stage(kind, subject), monotonic()
        if total < 1 or name in ended:
            return
        if done >= total:
            ended.add(name)
            err.print(f"{name}: {done} of {total} in {now - begun.get(name, now):.0f} s")
        elif name not in begun:
            begun[name] = said = now
            err.print(f"{name} ...")
        elif now - said >= LINE_S:
            said = now
            err.print(f"{name}: {done} of {total} after {now - begun[name]:.0f} s")

    return listen


def _stage(kind: str, subject: str) -> str:
    """Format a piece of work as the name of a stage."""
    return f"{LABELS.get(kind, kind)} {_brief(subject)}".strip()


def _brief(subject: str) -> str:
    """Format the subject of a piece of work for a progress bar: "after/0/brevity" gives "brevity, after"."""
    parts = subject.split("/")
    if len(parts) == 3 and parts[0] in ("before", "after"):
        return f"{parts[2]}, {parts[0]}" + (f" ({int(parts[1]) + 1})" if parts[1] != "0" else "")
    return "" if subject in ("update", "night") else subject


class Passes(Protocol):
    """A pass rate as two numbers."""

    @property
    def passed(self) -> int:
        """Number of scenarios that passed."""

    @property
    def trials(self) -> int:
        """Number of all scenarios."""


def rate(count: Passes | None) -> str:
    """Format a pass rate as passed/trials with its 95 % interval; "not measured" for None."""
    if count is None:
        return "not measured"
    low, high = interval(count.passed, count.trials)
    return f"{count.passed:>3}/{count.trials}  {100 * low:.0f}-{100 * high:.0f} %"


def points(before: Passes, after: Passes) -> str:
    """Format the change from one pass rate to another in percentage points."""
    return f"{100 * (after.passed / after.trials - before.passed / before.trials):+.0f} points"


def behaviour_name(name: str, counter_of: str | None) -> str:
    """Format a behaviour's name for a table; a counter-behaviour's name is indented and marked as such."""
    return f"  guards: {name}" if counter_of else name
