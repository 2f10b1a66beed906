"""The commands on checkpoints: list, compare, export, prune, verify, merge task vectors, and roll back."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import IntegrityFault
from loop.cli import helpers
from loop.cli.helpers import DryRun, Seed, options

commands = typer.Typer()
checkpoints = typer.Typer(help="Checkpoints: the versions of the weights.", no_args_is_help=True)

Id = Annotated[
    str, typer.Argument(help="a checkpoint: its id or the first characters of it, active, or base")
]


@checkpoints.command("list")
def checkpoints_list() -> None:
    """List all checkpoints, and mark the active one."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoints as operations
    from store import home

    helpers.show(operations.list_checkpoints(home.find(options.home)), show_checkpoints.listed)


@checkpoints.command("show")
def checkpoints_show(id: Id) -> None:
    """Show everything that is known about one checkpoint."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoints as operations
    from store import home

    helpers.show(operations.describe(home.find(options.home), id), show_checkpoints.shown)


@checkpoints.command("diff")
def checkpoints_diff(
    a: Annotated[str, typer.Argument(help="the checkpoint to compare from", metavar="A")],
    b: Annotated[str, typer.Argument(help="the checkpoint to compare to", metavar="B")] = "active",
) -> None:
    """Show what changed from one checkpoint to another.

    The command compares pass rates, readings and weights (by layer, kind and head). It also names the pairs
    that were trained in between.
    """
    from loop.cli.show import diff
    from loop.operations import checkpoints as operations
    from store import home

    helpers.show(operations.compare(home.find(options.home), (a, b)), diff.shown)


@checkpoints.command("export")
def checkpoints_export(
    id: Id, directory: Annotated[Path, typer.Argument(help="a new or empty directory", metavar="DIR")]
) -> None:
    """Write a checkpoint as a Hugging Face directory.

    Transformers and vLLM can load this directory. The weights are the same, bit for bit.
    """
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoints as operations
    from store import home

    place = directory.expanduser().absolute()
    helpers.show(operations.write_export(home.find(options.home), id, place), show_checkpoints.exported)


@checkpoints.command("prune")
def checkpoints_prune(
    keep_last: Annotated[
        int, typer.Option(min=0, help="Keep the newest N checkpoints that a verdict kept.", metavar="N")
    ] = 0,
    keep_daily: Annotated[
        int,
        typer.Option(
            min=0,
            help="Keep the last kept checkpoint of each of the newest N days that have one.",
            metavar="N",
        ),
    ] = 0,
    empty_trash: Annotated[
        bool, typer.Option("--empty-trash", help="Then delete everything that is in the trash.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Move the files of checkpoints that no rule keeps to the trash.

    The files of the active checkpoint, the last good one, pinned ones and those without a verdict always
    stay. The rows of all checkpoints stay in the ledger. Files stay in the trash for `checkpoints.trash_days`
    unless `--empty-trash` deletes them, which may also stand alone.
    """
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations.operations import Operations
    from store.checkpoints.retention import Policy

    if keep_last or keep_daily or not empty_trash:
        Policy(keep_last=keep_last, keep_daily=keep_daily)  # raises a usage error for an empty policy
    result = helpers.perform(
        Operations.prune,
        keep_last=keep_last,
        keep_daily=keep_daily,
        dry_run=dry_run,
        empty_trash=empty_trash,
    )
    helpers.show(result, show_checkpoints.pruned)


@checkpoints.command("pin")
def checkpoints_pin(id: Id) -> None:
    """Protect a checkpoint from `prune`."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.pin, target=id), show_checkpoints.pinned)


@checkpoints.command("unpin")
def checkpoints_unpin(id: Id) -> None:
    """Allow `prune` to delete a pinned checkpoint again."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.unpin, target=id), show_checkpoints.pinned)


@checkpoints.command("verify")
def checkpoints_verify(
    sample: Annotated[
        str, typer.Option(help="Check only this share, drawn at random: 0.1 or 10%.", metavar="P")
    ] = "1",
) -> None:
    """Check the ledger and all checkpoint files for damage.

    The command hashes them again, and exits with 12 if anything is damaged.
    """
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoints as operations
    from store import home

    result = operations.verify(home.find(options.home), operations.parse_share(sample))
    helpers.show(result, show_checkpoints.verified)
    if result.damaged or result.ledger:
        raise typer.Exit(IntegrityFault.exit_code)


@checkpoints.command("vector")
def checkpoints_vector(
    id: Annotated[str, typer.Argument(help="a checkpoint, or A..B for all updates after A up to B")],
    out: Annotated[
        Path | None, typer.Option(help="Write the task vector to this file, as float32 safetensors.")
    ] = None,
) -> None:
    """Show the size of a task vector.

    A task vector is the change that one update, or several updates in a row, made to the weights.
    """
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import task_vectors
    from store import home

    helpers.show(task_vectors.describe(home.find(options.home), id, out), show_checkpoints.vector)


@checkpoints.command("merge")
def checkpoints_merge(
    vectors: Annotated[
        list[str],
        typer.Argument(
            metavar="VECTOR[=WEIGHT]...", help="a task vector, as for `vector`; a weight below 0 unlearns it"
        ),
    ],
    method: Annotated[str, typer.Option(help="Method of the merge: arithmetic or ties.")] = "arithmetic",
    density: Annotated[
        float | None, typer.Option(help="Share of each tensor's values that ties keeps.", show_default="0.2")
    ] = None,
    seed: Seed = None,
    dry_run: DryRun = False,
) -> None:
    """Add task vectors to the active checkpoint.

    Such a merge takes a night without training. It is measured like any update, and a verdict keeps it or
    undoes it.
    """
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.cli.show import night as show_night
    from loop.operations import task_vectors
    from loop.operations.operations import Operations
    from store import home

    if dry_run:
        plan = task_vectors.dry_run(home.find(options.home), vectors, method, density)
        helpers.show(plan, show_checkpoints.merge_dry_run)
    else:
        result = helpers.perform(Operations.merge, vectors=vectors, method=method, density=density, seed=seed)
        helpers.show(result, show_night.night)


@commands.command()
def recover(
    active: Annotated[
        str,
        typer.Option(help="The checkpoint to make active; default: the one that was.", metavar="ID"),
    ] = "",
    trash: Annotated[bool, typer.Option("--trash", help="First put back what is in the trash.")] = False,
) -> None:
    """Rebuild a lost ledger's checkpoints from their files.

    Every checkpoint on the disk that the ledger does not have is entered, with its lineage. Conversations and
    nights that only the lost ledger had do not come back; logs in `inbox/` are read again. Stop the service
    first.
    """
    import anyio

    from loop.cli.show import checkpoints as show_checkpoints
    from loop.cli.show.console import set_up_logs
    from loop.operations.recover import recover as recover_home

    set_up_logs()
    result = anyio.run(partial(recover_home, options.home, active=active, trash=trash))
    helpers.show(result, show_checkpoints.recovered)


@commands.command()
def rollback(
    id: Annotated[
        str | None, typer.Argument(help="a kept checkpoint; default: the kept one before the active")
    ] = None,
    dry_run: DryRun = False,
    now: Annotated[
        bool, typer.Option("--now", help="If a night is running, end it and undo its update.")
    ] = False,
) -> None:
    """Restore the weights of an earlier checkpoint, bit for bit."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations.operations import Operations

    result = helpers.perform(Operations.rollback, target=id, dry_run=dry_run, now=now)
    helpers.show(result, show_checkpoints.rolled_back)
