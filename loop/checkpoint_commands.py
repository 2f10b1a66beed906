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
def checkpoints_verify(
    sample: Annotated[
        str, typer.Option(help="Look at this part only, drawn anew each time: 0.1 or 10%.", metavar="P")
    ] = "1",
) -> None:
    """Hash ledger and files again; exit 12 when something is damaged."""
    from loop import show_checkpoints, verify
    from store import home

    told = verify.verify(home.find(said.home), verify.share(sample))
    carry.show(told, show_checkpoints.verified)
    if told["damaged"] or told["ledger"]:
        raise typer.Exit(IntegrityFault.exit_code)


@app.command()
def rollback(
    id: Annotated[str | None, typer.Argument(help="a kept checkpoint; default: the one before the active")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be undone, and change nothing.")] = False,
) -> None:
    """Take the weights back to an earlier night, bit for bit."""
    from loop import show_checkpoints

    carry.show(carry.perform("rollback", target=id, dry_run=dry_run), show_checkpoints.rolled_back)
