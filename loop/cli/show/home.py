"""The output of the commands around a home: its state, its behaviours, its checks."""

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show.console import out, rate


def made(told: Json) -> None:
    out.print(f"home        {told['home']}")
    out.print(f"checkpoint  {told['checkpoint'][:12]} (the base)")
    out.print(f"turns       {told['turns']}")
    out.print("next        nightschool night     (one night now)   or   nightschool run   (the service)")


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


def doctor(told: Json) -> None:
    for check in told["checks"]:
        out.print(f"{'ok ' if check['ok'] else 'BAD'}  {check['check']:14} {check['found']}", markup=False)


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
