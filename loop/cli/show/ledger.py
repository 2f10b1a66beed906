"""The output of the commands on the ledger: logs that were read, its rows, their origins, and what was forgotten."""

from typing import Any

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show import readout
from loop.cli.show.console import err, out

MOST_LINES = 10
"""Lines of a log that are named."""


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
        readout.foretold(told["predictions"])


def forgotten(told: Json) -> None:
    verb = "would be" if told["dry_run"] else "were"
    what = {"source": "a source", "conversation": "a conversation's id", "log": "a log"}[told["matched"]]
    out.print(
        f"{told['source']} is {what}: {len(told['conversations'])} conversations {verb} forgotten",
        markup=False,
    )
    removed = {name.replace("_", " "): count for name, count in told["removed"].items() if count}
    out.print("removed: " + ", ".join(f"{count} {name}" for name, count in removed.items()))
    if told["alike"]:
        out.print(f"these begin with the same turns, and stay: {', '.join(told['alike'])}")
    _updates(told)
    for file in told["files"]:
        shown = ", ".join(map(str, file["lines"][:MOST_LINES])) + (
            ", ..." if file["lines"][MOST_LINES:] else ""
        )
        why = "" if file["read"] else " (it cannot be read: these are the lines that were heard)"
        out.print(
            f"it is still in {file['path']}, lines {shown}{why}: Nightschool leaves your logs alone",
            markup=False,
        )
    if told.get("wiped") is False:
        err.print("the ledger's file could not be written anew (is the disk full, or the ledger being read?)")
        err.print(
            "deleted rows are overwritten in it, older copies may be left: run `sqlite3 ledger.db VACUUM` later"
        )


def _updates(told: Json) -> None:
    if not told["updates"]:
        out.print("no weights learnt from it")
        return
    table = Table("update", "state", "checkpoint", "pairs of it", title="these weights learnt from it")
    for row in told["updates"]:
        learnt = str(row["pairs"]) if row["pairs"] else f"built on {row['built_on']}"
        table.add_row(row["id"], row["state"], row["checkpoint"][:12], learnt)
    out.print(table)
    if told["rolled_back"]:
        out.print(f"the weights went back to {told['rollback_to'][:12]}, from before it")
    if told["commands"]:
        out.print("to have the weights without it:")
        for command in told["commands"]:
            out.print(f"  {command}")
    elif told["rollback_to"] is None and any(row["state"] == "kept" for row in told["updates"]):
        out.print(
            "no kept checkpoint from before it has its files any more: there is nothing to roll back to"
        )
    out.print("their checkpoint files are still there: `nightschool checkpoints prune` takes files away")
