"""The commands around checkpoints: what there is, whether it is whole, and the way back.

Invariant: as in `commands.py`.
"""

from typing import Annotated

import typer

from corpus.errors import IntegrityFault
from loop import carry
from loop.cli import app, checkpoints, said


@checkpoints.command("list")
def checkpoints_list() -> None:
    """All checkpoints, and which one is active."""
    from loop import show_checkpoints
    from store import report

    carry.show(carry.read(report.checkpoint_list), show_checkpoints.listed)


@checkpoints.command("verify")
def checkpoints_verify() -> None:
    """Hash every file again; exit 12 when one is damaged."""
    from loop import show_checkpoints
    from store import home, queries
    from store.checkpoints import CheckpointStore

    known = [row["id"] for row in carry.read(queries.checkpoints)]
    faults = CheckpointStore(home.find(said.home).checkpoints).verify(known)
    damaged = [{"checkpoint": f.checkpoint_id, "path": str(f.path), "problem": f.problem} for f in faults]
    carry.show({"checkpoints": len(known), "damaged": damaged}, show_checkpoints.verified)
    if damaged:
        raise typer.Exit(IntegrityFault.exit_code)


@app.command()
def rollback(
    id: Annotated[str | None, typer.Argument(help="a kept checkpoint; default: the one before the active")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be undone, and change nothing.")] = False,
    now: Annotated[bool, typer.Option("--now", help="End a night that is running, its update undone.")] = False,
) -> None:
    """Take the weights back to an earlier night, bit for bit."""
    from loop import show_checkpoints

    carry.show(carry.perform("rollback", target=id, dry_run=dry_run, now=now), show_checkpoints.rolled_back)
