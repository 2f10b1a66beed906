"""The commands that run the loop: the service, a night, and what a user may do while one runs."""

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
    """Run the service in the foreground: follow logs, answer users, learn on schedule."""
    import anyio

    from loop.api import host
    from loop.cli.show.console import ready, set_up_logs
    from store import home

    at_home = home.find(options.home)
    set_up_logs()
    anyio.run(partial(host.run, at_home, watch or [], partial(ready, at_home)))


@commands.command()
def night(
    seed: Seed = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Learn again from the pairs of updates that were undone.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Compute the steps of the pairs at hand, and change nothing."),
    ] = False,
) -> None:
    """Run one whole night now: lessons, dreams, pairs, an update, the verdict."""
    from loop.cli.show import night as show_night
    from loop.operations.operations import Operations

    result = helpers.perform(Operations.night, seed=seed, retry=retry, dry_run=dry_run)
    helpers.show(result, show_night.night_or_dry_run)


@commands.command()
def pause() -> None:
    """Start no night on schedule, and hold an update that is being trained, until `resume`."""
    from loop.operations.operations import Operations

    helpers.show(
        helpers.perform(Operations.pause),
        lambda _: typer.echo("paused: no night starts by itself, and an update that is being trained waits"),
    )


@commands.command()
def resume() -> None:
    """Let nights start on schedule again, and let an update that waits go on."""
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.resume), lambda _: typer.echo("resumed"))


@commands.command()
def cancel() -> None:
    """End the update that is being trained; the weights are as before it."""
    from loop.cli.show import night as show_night
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.cancel), show_night.cancelled)
