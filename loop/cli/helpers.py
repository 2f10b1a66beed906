"""The parts that every command shares: the global options, running an operation, printing its result.

Invariant: with --json, stdout gets one object and nothing else; progress and logs go to stderr. Imports nothing heavy
before a command runs.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from corpus.aliases import Json

DryRun = Annotated[bool, typer.Option("--dry-run", help="Report what would happen, and change nothing.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every draw; default: `seed` in the configuration.")]


@dataclass
class GlobalOptions:
    """The options that may stand anywhere on the command line."""

    home: Path | None = None
    json: bool = False


options = GlobalOptions()


def show(value: Json, text: Callable[[Json], None]) -> None:
    """Print a result, as JSON or as a person reads it."""
    if options.json:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    else:
        text(value)


def perform(name: str, **arguments: Any) -> Json:
    """Run an operation, with progress on stderr."""
    import anyio

    from loop.api import host
    from loop.cli.show.console import progress, set_up_logs
    from store import home

    at_home = home.find(options.home)
    set_up_logs()
    with progress() as listener:
        return anyio.run(partial(host.perform, at_home, name, arguments, listener))


def read(query: Callable[..., Any], *arguments: Any) -> Any:
    """Run a query on the ledger, whether a service runs or not."""
    from loop.operations import status
    from store import home

    with status.ledger_of(home.find(options.home)) as connection:
        return query(connection, *arguments)
