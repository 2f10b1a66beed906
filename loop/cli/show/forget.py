"""What a person sees of `forget`.

Invariant: as in `show.py`.
"""

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show.everyday import err, out

MOST_LINES = 10
"""Lines of a log that are named."""


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
