"""The commands around checkpoints: what there is, what changed, whether it is whole, and the way back.

Invariant: as in `commands.py`.
"""

from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import IntegrityFault
from loop.cli import helpers
from loop.cli.app import app, checkpoints, options

Id = Annotated[str, typer.Argument(help="a checkpoint: its id, the beginning of it, active or base")]


@checkpoints.command("list")
def checkpoints_list() -> None:
    """All checkpoints, and which one is active."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoint_facts
    from store import home

    helpers.show(checkpoint_facts.listed(home.find(options.home)), show_checkpoints.listed)


@checkpoints.command("show")
def checkpoints_show(id: Id) -> None:
    """Everything about one checkpoint."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoint_facts
    from store import home

    helpers.show(checkpoint_facts.shown(home.find(options.home), id), show_checkpoints.shown)


@checkpoints.command("diff")
def checkpoints_diff(
    a: Annotated[str, typer.Argument(help="from this checkpoint ...", metavar="A")],
    b: Annotated[
        str, typer.Argument(help="... to this one; default: the active one", metavar="B")
    ] = "active",
) -> None:
    """What changed from A to B: pass rates, readings, weights by layer, kind and head, and which pairs did it."""
    from loop.cli.show import diff
    from loop.operations import checkpoint_facts
    from store import home

    helpers.show(checkpoint_facts.difference(home.find(options.home), (a, b)), diff.shown)


@checkpoints.command("export")
def checkpoints_export(
    id: Id, directory: Annotated[Path, typer.Argument(help="a new or empty directory", metavar="DIR")]
) -> None:
    """Write a Hugging Face directory that transformers and vLLM load, equal bit for bit."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoint_facts
    from store import home

    place = directory.expanduser().absolute()
    helpers.show(checkpoint_facts.exported(home.find(options.home), id, place), show_checkpoints.exported)


@checkpoints.command("prune")
def checkpoints_prune(
    keep_last: Annotated[int, typer.Option(min=0, help="Keep the newest N that were kept.", metavar="N")] = 0,
    keep_daily: Annotated[
        int, typer.Option(min=0, help="Keep the last of each day, for N days.", metavar="N")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")
    ] = False,
) -> None:
    """Give up the files of the checkpoints that no rule keeps; never the active, the pinned or the last good one."""
    from loop.cli.show import checkpoints as show_checkpoints
    from store.checkpoints.retention import Policy

    Policy(keep_last=keep_last, keep_daily=keep_daily)  # refuses an empty one before anything is begun
    told = helpers.perform("prune", keep_last=keep_last, keep_daily=keep_daily, dry_run=dry_run)
    helpers.show(told, show_checkpoints.pruned)


@checkpoints.command("pin")
def checkpoints_pin(id: Id) -> None:
    """Have `prune` never take this checkpoint."""
    from loop.cli.show import checkpoints as show_checkpoints

    helpers.show(helpers.perform("pin", target=id), show_checkpoints.pinned)


@checkpoints.command("unpin")
def checkpoints_unpin(id: Id) -> None:
    """Let `prune` take this checkpoint again."""
    from loop.cli.show import checkpoints as show_checkpoints

    helpers.show(helpers.perform("unpin", target=id), show_checkpoints.pinned)


@checkpoints.command("verify")
def checkpoints_verify(
    sample: Annotated[
        str, typer.Option(help="Look at this part only, drawn anew each time: 0.1 or 10%.", metavar="P")
    ] = "1",
) -> None:
    """Hash ledger and files again; exit 12 when something is damaged."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import verify
    from store import home

    told = verify.verify(home.find(options.home), verify.share(sample))
    helpers.show(told, show_checkpoints.verified)
    if told["damaged"] or told["ledger"]:
        raise typer.Exit(IntegrityFault.exit_code)


@app.command()
def rollback(
    id: Annotated[
        str | None, typer.Argument(help="a kept checkpoint; default: the one before the active")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be undone, and change nothing.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="End a night that is running, its update undone.")
    ] = False,
) -> None:
    """Take the weights back to an earlier night, bit for bit."""
    from loop.cli.show import checkpoints as show_checkpoints

    helpers.show(
        helpers.perform("rollback", target=id, dry_run=dry_run, now=now), show_checkpoints.rolled_back
    )
