"""What a person sees of checkpoints: tables on stdout, faults on stderr.

Invariant: as in `show.py`.
"""

from typing import Any

from rich.table import Table

from loop.show import err, out

Json = dict[str, Any]


def listed(told: Json) -> None:
    table = Table("", "number", "id", "weights", "update", "state", "at")
    for row in told["checkpoints"]:
        mark = "active" if row["active"] else ""
        table.add_row(
            mark,
            str(row["number"]),
            row["id"][:12],
            row["weights_sha256"][:12],
            row["update_id"] or "base",
            row["state"],
            row["at"],
        )
    out.print(table)


def verified(told: Json) -> None:
    for fault in told["damaged"]:
        err.print(f"{fault['path']}: {fault['problem']}", markup=False)
    for problem in told["ledger"]:
        err.print(f"ledger: {problem}", markup=False)
    part = "" if told["sample"] == 1 else f" ({told['hashed']} of them hashed, a part of {told['sample']:.0%})"
    pruned = f", {told['pruned']} pruned" if told["pruned"] else ""
    out.print(
        f"{told['checkpoints']} checkpoints{part}{pruned}: {len(told['damaged'])} damaged files, "
        f"{len(told['ledger'])} faults in the ledger"
    )


def rolled_back(told: Json) -> None:
    verb = "would go" if told["dry_run"] else "went"
    out.print(f"{verb} from {told['from'][:12]} to {told['to'][:12]} (weights {told['weights_sha256'][:12]})")
    if told["restored"]:
        out.print(f"taken back up: {', '.join(told['restored'])}")
    if told["undone"]:
        out.print(f"undone: {', '.join(told['undone'])}; `nightschool night --retry` would take it up again")
