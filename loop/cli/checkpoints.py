"""The commands around checkpoints: list, compare, export, prune, verify, add task vectors, and roll back."""

from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import IntegrityFault
from loop.cli import helpers
from loop.cli.helpers import DryRun, Seed, options

commands = typer.Typer()
checkpoints = typer.Typer(help="The versions of the weights.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="a checkpoint: its id, the first letters of it, active or base")]


@checkpoints.command("list")
def checkpoints_list() -> None:
    """List all checkpoints, and say which one is active."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoints as facts
    from store import home

    helpers.show(facts.listed(home.find(options.home)), show_checkpoints.listed)


@checkpoints.command("show")
def checkpoints_show(id: Id) -> None:
    """Show everything about one checkpoint."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoints as facts
    from store import home

    helpers.show(facts.shown(home.find(options.home), id), show_checkpoints.shown)


@checkpoints.command("diff")
def checkpoints_diff(
    a: Annotated[str, typer.Argument(help="from this checkpoint ...", metavar="A")],
    b: Annotated[
        str, typer.Argument(help="... to this one; default: the active one", metavar="B")
    ] = "active",
) -> None:
    """Show what changed from A to B: pass rates, readings, weights by layer, kind and head, and the pairs behind it."""
    from loop.cli.show import diff
    from loop.operations import checkpoints as facts
    from store import home

    helpers.show(facts.difference(home.find(options.home), (a, b)), diff.shown)


@checkpoints.command("export")
def checkpoints_export(
    id: Id, directory: Annotated[Path, typer.Argument(help="a new or empty directory", metavar="DIR")]
) -> None:
    """Write a Hugging Face directory that transformers and vLLM load, equal bit for bit."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoints as facts
    from store import home

    place = directory.expanduser().absolute()
    helpers.show(facts.exported(home.find(options.home), id, place), show_checkpoints.exported)


@checkpoints.command("prune")
def checkpoints_prune(
    keep_last: Annotated[
        int, typer.Option(min=0, help="Keep the newest N of those that the verdict kept.", metavar="N")
    ] = 0,
    keep_daily: Annotated[
        int, typer.Option(min=0, help="Keep the last of each day, for N days.", metavar="N")
    ] = 0,
    dry_run: DryRun = False,
) -> None:
    """Delete the files of checkpoints that no rule keeps; never the active, a pinned or the last good one."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations.operations import Operations
    from store.checkpoints.retention import Policy

    Policy(keep_last=keep_last, keep_daily=keep_daily)  # refuses an empty policy before anything starts
    result = helpers.perform(Operations.prune, keep_last=keep_last, keep_daily=keep_daily, dry_run=dry_run)
    helpers.show(result, show_checkpoints.pruned)


@checkpoints.command("pin")
def checkpoints_pin(id: Id) -> None:
    """Protect this checkpoint from `prune`."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.pin, target=id), show_checkpoints.pinned)


@checkpoints.command("unpin")
def checkpoints_unpin(id: Id) -> None:
    """Let `prune` delete this checkpoint's files again."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.unpin, target=id), show_checkpoints.pinned)


@checkpoints.command("verify")
def checkpoints_verify(
    sample: Annotated[
        str, typer.Option(help="Check only this part, drawn anew each time: 0.1 or 10%.", metavar="P")
    ] = "1",
) -> None:
    """Hash ledger and files again; exit 12 when something is damaged."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import checkpoints as facts
    from store import home

    result = facts.verify(home.find(options.home), facts.share(sample))
    helpers.show(result, show_checkpoints.verified)
    if result.damaged or result.ledger:
        raise typer.Exit(IntegrityFault.exit_code)


@checkpoints.command("vector")
def checkpoints_vector(
    id: Annotated[str, typer.Argument(help="a checkpoint, or A..B: what the updates after A up to B added")],
    out: Annotated[Path | None, typer.Option(help="Write it there, as float32 safetensors.")] = None,
) -> None:
    """Show what an update, or a range of updates, added to the weights."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations import task_vectors
    from store import home

    helpers.show(task_vectors.added(home.find(options.home), id, out), show_checkpoints.vector)


@checkpoints.command("merge")
def checkpoints_merge(
    vectors: Annotated[
        list[str],
        typer.Argument(metavar="VECTOR[=WEIGHT]...", help="as in `vector`; a weight below 0 unlearns"),
    ],
    method: Annotated[str, typer.Option(help="arithmetic or ties.")] = "arithmetic",
    density: Annotated[
        float | None, typer.Option(help="Share of each tensor that ties keeps.", show_default="0.2")
    ] = None,
    seed: Seed = None,
    dry_run: DryRun = False,
) -> None:
    """Add task vectors to the active checkpoint: a night without training, with the verdict of any other."""
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
def rollback(
    id: Annotated[
        str | None, typer.Argument(help="a kept checkpoint; default: the one before the active")
    ] = None,
    dry_run: DryRun = False,
    now: Annotated[
        bool, typer.Option("--now", help="End a night that is running, its update undone.")
    ] = False,
) -> None:
    """Take the weights back to an earlier night, bit for bit."""
    from loop.cli.show import checkpoints as show_checkpoints
    from loop.operations.operations import Operations

    result = helpers.perform(Operations.rollback, target=id, dry_run=dry_run, now=now)
    helpers.show(result, show_checkpoints.rolled_back)
