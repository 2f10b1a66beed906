"""The commands on backups: make one, check them all, and restore one into a new home."""

from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import IntegrityFault
from loop.cli import helpers
from loop.cli.helpers import options

commands = typer.Typer()
backup = typer.Typer(help="Backups of a home, while a service runs or not.", no_args_is_help=True)

Place = Annotated[Path, typer.Argument(help="the folder of the backups", metavar="DIR")]


@backup.command("make")
def backup_make(directory: Place) -> None:
    """Back up the home into a folder.

    Content that an earlier backup in this folder has is not copied again, and earlier backups stay.
    Everything new is read back and compared.
    """
    from loop.cli.show import home as show_home
    from loop.config import load_settings
    from store import backup as backups
    from store.home import find

    home = find(options.home)
    settings = load_settings(home.config_file)
    result = backups.back_up(home, directory.expanduser().absolute(), database=settings.database)
    helpers.show(result, show_home.saved)


@backup.command("check")
def backup_check(directory: Place) -> None:
    """List the backups in a folder, and hash all their content again.

    The command exits with 12 if anything is damaged.
    """
    from loop.cli.show import home as show_home
    from store import backup as backups

    result = backups.check(directory.expanduser().absolute())
    helpers.show(result, show_home.backups)
    if result.problems:
        raise typer.Exit(IntegrityFault.exit_code)


@commands.command()
def restore(
    directory: Place,
    at: Annotated[
        str,
        typer.Option(help="The backup, or how its name begins; default: the newest.", metavar="NAME"),
    ] = "",
) -> None:
    """Make a home from a backup, where there is none yet."""
    from loop.cli.show import home as show_home
    from store import backup as backups
    from store.home import locate

    result = backups.restore(directory.expanduser().absolute(), locate(options.home), at)
    helpers.show(result, show_home.restored)
