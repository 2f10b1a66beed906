"""The commands that run the service or a night, and that pause, resume or cancel training."""

from functools import partial
from typing import Annotated

import typer

from loop.cli import helpers
from loop.cli.helpers import Seed, options

commands = typer.Typer()


@commands.command()
def run(
    watch: Annotated[
        list[str] | None, typer.Option(help="Follow the logs in this folder; may be repeated.")
    ] = None,
) -> None:
    """Run the service in the foreground.

    The service follows logs, answers requests, and runs nights on schedule.
    """
    import anyio

    from loop.api import host
    from loop.cli.show.console import ready, set_up_logs
    from store.home import find

    home = find(options.home)
    set_up_logs()
    anyio.run(partial(host.run, home, watch or [], partial(ready, home)))


@commands.command()
def night(
    seed: Seed = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Learn again from the pairs of updates that were undone.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Compute the training steps for the pairs at hand, and change nothing."
        ),
    ] = False,
) -> None:
    """Run one whole night now.

    A night finds lessons, dreams, makes pairs, and trains an update on the pairs. A verdict keeps the update
    or undoes it.
    """
    from loop.cli.show import night as show_night
    from loop.operations.operations import Operations

    result = helpers.perform(Operations.night, seed=seed, retry=retry, dry_run=dry_run)
    helpers.show(result, show_night.night_or_dry_run)


@commands.command()
def pause() -> None:
    """Suspend scheduled nights and training until `resume`.

    An update that is being trained waits before its next step.
    """
    from loop.operations.operations import Operations

    helpers.show(
        helpers.perform(Operations.pause),
        lambda _: helpers.echo(
            "paused: no night starts on schedule, and an update that is being trained waits"
        ),
    )


@commands.command()
def resume() -> None:
    """Resume scheduled nights, and an update that waits."""
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.resume), lambda _: helpers.echo("resumed"))


@commands.command()
def cancel() -> None:
    """Cancel the update that is being trained.

    The weights from before the update are restored.
    """
    from loop.cli.show import night as show_night
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.cancel), show_night.cancelled)
