"""The output of the commands on a home: its state, its behaviours, its checks."""

from rich.table import Table

from agents.trainer.memory_estimate import format_bytes
from loop.cli.show.console import behaviour_name, err, out, rate
from loop.operations.results.home import BehaviourList, DoctorReport, HomeMade, StatusReport
from loop.operations.results.nights import Measured
from store.backup import Checked, Saved
from store.nights.results import LastUpdate


def made(home: HomeMade) -> None:
    """Print the home that `init` made, and the next command."""
    out.print(f"home        {home.home}")
    out.print(f"checkpoint  {home.checkpoint[:12]} (the base)")
    out.print(f"turns       {home.turns}")
    out.print("next        nightschool night     (one night now)   or   nightschool run   (the service)")


def status(report: StatusReport) -> None:
    """Print the state of a home, one line for each fact."""
    quarantine = report.set_aside
    lines = {
        "service": report.service,
        "checkpoint": report.checkpoint[:12],
        "weights": report.weights_sha256[:12],
        "weights version": report.weights_version,
        "read": f"{report.conversations} conversations, {report.turns} turns",
        "queue": ", ".join(f"{count} {kind}" for kind, count in report.queue.items()) or "empty",
        "quarantined": f"{quarantine.lines} lines, {len(quarantine.work)} pieces of work",
        "last update": _last(report.last_update),
        "next update": report.next_update_reason or "due now",
    }
    for name, value in lines.items():
        out.print(f"{name:16}{value}")
    for problem in report.problems:
        out.print(f"{'problem':16}{problem}", style="red")
    for failed in quarantine.work:
        out.print(f"  {failed.kind} {failed.subject}: {failed.error}")


def _last(update: LastUpdate | None) -> str:
    return "none yet" if update is None else f"{update.id}: {update.state} ({'; '.join(update.reasons)})"


def doctor(report: DoctorReport) -> None:
    """Print the results of `doctor`, one line for each check."""
    for check in report.checks:
        out.print(f"{'ok ' if check.ok else 'BAD'}  {check.check:14} {check.found}")


def behaviours(report: BehaviourList) -> None:
    """Print a table of the behaviours."""
    table = Table("name", "guards", "when", "do", "required")
    for row in report.behaviours:
        table.add_row(row.name, row.counter_of or "", row.condition, row.do, f"{row.required_rate:.0%}")
    out.print(table)


def measured(report: Measured) -> None:
    """Print a table of the behaviours' pass rates."""
    table = Table("behaviour", "passed", title=f"weights {report.weights_sha256[:12]}")
    for row in report.behaviours:
        table.add_row(behaviour_name(row.name, row.counter_of), rate(row))
    out.print(table)


def saved(report: Saved) -> None:
    """Print what a backup has."""
    copied = f"{format_bytes(report.copied_bytes)} of them new"
    out.print(
        f"backup {report.name}: {report.files} files, {format_bytes(report.nbytes)}, {copied}; verified"
    )


def backups(report: Checked) -> None:
    """Print the names of the backups, and on stderr what is damaged."""
    for name in report.backups:
        out.print(name)
    for problem in report.problems:
        err.print(problem)
    out.print(f"{len(report.backups)} backups, {len(report.problems)} damaged or missing files")


def restored(report: Saved) -> None:
    """Print what was restored, and the next command."""
    out.print(f"restored {report.name}: {report.files} files, {format_bytes(report.nbytes)}")
    out.print("next: nightschool checkpoints verify   and   nightschool doctor")
