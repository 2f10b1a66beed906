"""What a person sees: tables on stdout, progress bars and logs on stderr.

Invariant: nothing here decides anything; every figure comes from the operation's result.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from corpus.aliases import Json
from loop.night.verdict import interval

if TYPE_CHECKING:
    from loop.engine.worker import Listener
    from store.home import Home

LABELS = {
    "start": "starting the model",
    "extract": "finding lessons",
    "dream": "dreaming",
    "attempt": "answering dreams",
    "measure": "measuring",
    "train": "training",
    "build": "building",
    "readout": "reading the concepts' texts",
}
out = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False)


def set_up_logs() -> None:
    """Logs go to stderr, one line each."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("asyncio").setLevel(
        logging.ERROR
    )  # it warns of every piece sent to an asker that has gone
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(
            sys.stderr
        ),  # looked up anew: it may have been replaced
    )


@contextmanager
def progress() -> Iterator["Listener"]:
    """A bar for each stage, on stderr: gone when it is done, a line where stderr is no terminal."""
    columns = (
        TextColumn("{task.description:28}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=err) as shown:

        def listen(kind: str, subject: str, done: int, total: int) -> None:
            name = f"{LABELS.get(kind, kind)} {_brief(subject)}".strip()
            if total < 1:
                return
            if name not in bars:
                bars[name] = shown.add_task(name, total=total)
            shown.update(bars[name], completed=done, total=total)

        yield listen


def _brief(subject: str) -> str:
    """A subject as a person reads it: `after/0/listen` is "listen, after"."""
    parts = subject.split("/")
    if len(parts) == 3 and parts[0] in ("before", "after"):
        return f"{parts[2]}, {parts[0]}" + (f" ({int(parts[1]) + 1})" if parts[1] != "0" else "")
    return "" if subject in ("update", "night") else subject


def began(told: Json) -> None:
    out.print(f"home        {told['home']}")
    out.print(f"checkpoint  {told['checkpoint'][:12]} (the base)")
    out.print(f"turns       {told['turns']}")
    out.print("next        nightschool night     (one night now)   or   nightschool run   (the service)")


def ready(home: "Home", port: int) -> None:
    """The line that says that the service is ready."""
    structlog.get_logger().info(
        "ready", home=str(home.path), url=f"http://127.0.0.1:{port}/v1", token_file=str(home.token_file)
    )


def night(told: Json) -> None:
    out.print(
        f"heard {told['conversations']} conversations ({told['turns']} turns), found {told['signals']} signals; "
        f"{told['dreams']} dreams, {told['pairs']} pairs, {told['seconds']:.0f} s"
    )
    if told["behaviours"]:
        _before_after(told["behaviours"])
    if told["retention"] and told["retention"]["after"]:
        before, after = told["retention"]["before"], told["retention"]["after"]
        out.print(f"perplexity on ordinary text  {before:.3f} -> {after:.3f} ({after / before:.2f}x)")
    for update in told["updates"]:
        out.print(f"update {update['id']}: {_made_of(update)}")
        out.print(f"verdict     {update['verdict']}: {'; '.join(update['reasons'])}")
        out.print(f"checkpoint  {update['checkpoint']}")
    if not told["updates"]:
        out.print(f"nothing happened: {'; '.join(told['reasons'])}")
    why = f" | ledger why {told['updates'][0]['id']}" if told["updates"] else ""
    out.print(f"look further: nightschool status | ledger updates{why} | ask 'TEXT' | rollback")


def _made_of(update: Json) -> str:
    """Steps over pairs, or what was merged."""
    if "recipe" not in update:
        return f"{update['steps']} steps over {update['pairs']} pairs ({update['objective']})"
    recipe = update["recipe"]
    parts = ", ".join(f"{p['weight']:g} x {' + '.join(p['updates'])}" for p in recipe["parts"])
    return f"merge of {parts} ({recipe['method']}" + (
        f", density {recipe['density']:g})" if recipe["density"] else ")"
    )


def rehearsed(told: Json) -> None:
    """A dry run: one line a step."""
    waiting = f"{told['conversations']} conversations to read, {told['lessons']} lessons"
    out.print(f"waiting: {waiting}" + (f" for {', '.join(told['targets'])}" if told["targets"] else ""))
    for reason in told["reasons"]:
        out.print(reason, markup=False)
    if told["steps"]:
        table = Table(
            "step", *_STEP, title=f"{told['pairs']} pairs and {told['replay']} of replay, {told['objective']}"
        )
        for step in told["steps"]:
            cells = (f"{step[name]:.4g}" if name in step else "" for name in _STEP.values())
            table.add_row(f"{step['step']}/{step['steps']}", *cells)
        out.print(table)
    out.print("a dry run at the weights of checkpoint " + told["checkpoint"][:12] + ": nothing was changed")


_STEP = {
    "loss": "loss",
    "chosen (nats/token)": "chosen_logprob",
    "rejected": "rejected_logprob",
    "margin": "margin",
    "gradient norm": "grad_norm",
    "update/weights": "update_ratio",
}
"""What is shown of a step: heading to metric."""


def _before_after(rows: list[Json]) -> None:
    table = Table(
        "behaviour", "held out, before", "after", "change", title="pass rates on held-out scenarios"
    )
    for row in rows:
        name = f"  guards: {row['name']}" if row["counter_of"] else row["name"]
        before, after = row["before"], row["after"]
        change = ""
        if before and after:
            points = 100 * (after["passed"] / after["trials"] - before["passed"] / before["trials"])
            change = f"{points:+.0f} points"
        table.add_row(name, rate(before), rate(after), change)
    out.print(table)


def rate(side: Json | None) -> str:
    """k/n with its 95 % interval."""
    if side is None:
        return "not measured"
    low, high = interval(side["passed"], side["trials"])
    return f"{side['passed']:>3}/{side['trials']}  {100 * low:.0f}-{100 * high:.0f} %"


def ingested(told: Json) -> None:
    for file in told["files"]:
        out.print(f"{file['path']} ({file['format']})")
    found = told["conversations"]
    out.print(f"{found['new']} new conversations, {found['known']} known, {told['turns']} new turns")
    if told["forgotten"]:
        out.print(
            f"{told['forgotten']} passed over: they go through what was forgotten (`nightschool forget`)"
        )
    for line in told["set_aside"]:
        err.print(f"set aside: {line['path']}:{line['line']}: {line['reason']}", markup=False)


def status(told: Json) -> None:
    rows = {
        "service": told["service"],
        "checkpoint": told["checkpoint"][:12],
        "weights": told["weights_sha256"][:12],
        "weights version": told["weights_version"],
        "heard": f"{told['conversations']} conversations, {told['turns']} turns",
        "queue": ", ".join(f"{count} {kind}" for kind, count in told["queue"].items()) or "empty",
        "set aside": f"{told['set_aside']['lines']} lines, {len(told['set_aside']['work'])} pieces of work",
        "last update": _last(told["last_update"]),
        "next update": told["next_update_reason"] or "due now",
    }
    for name, value in rows.items():
        out.print(f"{name:16}{value}", markup=False)
    for failed in told["set_aside"]["work"]:
        out.print(f"  {failed['kind']} {failed['subject']}: {failed['error']}", markup=False)


def _last(update: Json | None) -> str:
    return (
        "none yet"
        if update is None
        else f"{update['id']}: {update['state']} ({'; '.join(update['reasons'])})"
    )


def rows(what: str, told: Json) -> None:
    found = told[what]
    if not found:
        out.print(f"no {what} yet")
        return
    table = Table()
    for name in found[0]:
        table.add_column(name, no_wrap=name in ("id", "seq", "subject"), overflow="fold")
    for row in found:
        table.add_row(*(_cell(value) for value in row.values()))
    out.print(table)


def _cell(value: Any) -> str:
    """A value short enough for a table; --json shows it whole."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "content" in value[0]:
        value = value[-1]["content"]
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    if isinstance(value, dict):
        value = ", ".join(f"{key} {part}" for key, part in value.items())
    text = "" if value is None else str(value)
    return (text[:60] + "...") if len(text) > 63 else text


def why(told: Json) -> None:
    from loop.cli.show import readout  # it prints by what is here

    pairs = told.get("pairs", [told])
    if "update" in told:
        out.print(
            f"update {told['update']['id']}: {told['update']['verdict']}, {len(pairs)} pairs, from these log lines:"
        )
        readout.located(told["update"]["moves"])
    for pair in pairs[:3] if "update" in told else pairs:
        out.print(f"pair {pair['id']} ({pair['behaviour']}, {pair['state']})", markup=False)
        out.print(f"  asked     {pair['messages'][-1]['content']}", markup=False)
        out.print(f"  chosen    {pair['chosen']}   [{pair['chosen_from']}]", markup=False)
        out.print(f"  rejected  {pair['rejected']}   [{pair['rejected_from']}]", markup=False)
    for line in told["log_lines"]:
        out.print(f"  {line['path']}:{line['line']}  {line['source']}: {line['text']}", markup=False)
    if not told["log_lines"]:
        out.print("  it grew from the behaviour's own declared examples alone")
    if told.get("predictions"):
        from loop.cli.show.steering import foretold  # which shows its tables with what is here

        foretold(told["predictions"])


def cancelled(told: Json) -> None:
    out.print(f"update {told['update']} of night {told['night']}: {'; '.join(told['reasons'])}")
    out.print("its pairs are set aside: `nightschool night --retry` would take them up again")


def behaviours(told: Json) -> None:
    table = Table("name", "guards", "when", "do", "required")
    for row in told["behaviours"]:
        table.add_row(
            row["name"], row["counter_of"] or "", row["condition"], row["do"], f"{row['required_rate']:.0%}"
        )
    out.print(table)


def measured(told: Json) -> None:
    table = Table("behaviour", "passed", title=f"weights {told['weights_sha256'][:12]}")
    for row in told["behaviours"]:
        table.add_row(f"  guards: {row['name']}" if row["counter_of"] else row["name"], rate(row))
    out.print(table)


def doctor(told: Json) -> None:
    for check in told["checks"]:
        out.print(f"{'ok ' if check['ok'] else 'BAD'}  {check['check']:14} {check['found']}", markup=False)
