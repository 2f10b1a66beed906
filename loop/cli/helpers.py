"""The parts that all commands share: global options, and functions that run operations and print results.

Invariant: with --json, one JSON object and nothing else is printed to stdout. Progress and logs go to stderr.
No large library is imported before a command runs.
"""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Concatenate, ParamSpec, TypeVar, TypeVarTuple, Unpack

import typer

from corpus.text import json_line, visible

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from loop.operations.operations import Operations

Arguments = ParamSpec("Arguments")
Values = TypeVarTuple("Values")
Result = TypeVar("Result")

DryRun = Annotated[bool, typer.Option("--dry-run", help="Report what would happen, and change nothing.")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of all random draws; default: `seed` in the configuration.")
]


@dataclass
class GlobalOptions:
    """The values of the options that may stand anywhere on the command line."""

    home: Path | None = None
    """The folder given with --home; None without it."""
    json: bool = False
    """Whether --json was given."""


options = GlobalOptions()


def echo(text: str) -> None:
    """Print a text, in which lines stay lines and nothing else acts on the terminal."""
    sys.stdout.write(visible(text, keep="\n") + "\n")


def show(result: Result, text: Callable[[Result], None]) -> None:
    """Print a result: as JSON if --json was given, else by calling `text` with it."""
    if options.json:
        from corpus.json_edge import to_json

        sys.stdout.write(json_line(to_json(result)) + "\n")
    else:
        text(result)


def perform(
    operation: "Callable[Concatenate[Operations, Arguments], Awaitable[Result]]",
    *_: Arguments.args,
    **arguments: Arguments.kwargs,
) -> Result:
    """Run an operation on the home and return its result; show progress on stderr.

    If a service holds the home, it runs the operation; else this process does.

    Args:
        operation: A method of `Operations`.
        arguments: The keyword arguments of the method.
    """
    import anyio

    from loop.api import host
    from loop.cli.show.console import progress, set_up_logs
    from store.home import find

    home = find(options.home)
    set_up_logs()
    with progress() as listener:
        result: Result = anyio.run(partial(host.perform, home, operation.__name__, arguments, listener))
    return result


def read(query: "Callable[[Connection, Unpack[Values]], Result]", *arguments: *Values) -> Result:
    """Run a query on the home's ledger and return its result, whether a service runs or not.

    Args:
        query: A function that takes a connection and `arguments`.
        arguments: Further arguments of the query.
    """
    from loop.operations import status
    from store import home

    with status.ledger_of(home.find(options.home)) as connection:
        return query(connection, *arguments)
