"""What every command is made of: one operation or one query, and the printing of what comes back.

Invariant: with --json, one object goes to stdout; progress goes to stderr. Imports nothing heavy before it is used.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from corpus.aliases import Json
from loop.cli.app import options


def show(value: Json, text: Callable[[Json], None]) -> None:
    """Print a result, as JSON or as a person reads it."""
    if options.json:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    else:
        text(value)


def perform(name: str, **arguments: Any) -> Json:
    """Carry out an operation, with progress on stderr."""
    import anyio

    from loop.api import host
    from loop.cli.show.everyday import progress, set_up_logs
    from store import home

    found = home.find(options.home)
    set_up_logs()
    with progress() as listener:
        return anyio.run(partial(host.perform, found, name, arguments, listener))


def read(query: Callable[..., Any], *arguments: Any) -> Any:
    """Ask the ledger, whether a service runs or not."""
    from loop.operations import status
    from store import home

    with status.ledger_of(home.find(options.home)) as connection:
        return query(connection, *arguments)
