"""The command line: arguments in, one operation, a table or one JSON object out.

Invariant: with --json, stdout holds that one object and nothing else; progress and logs go to stderr. No
traceback for anything that a user can cause. Heavy imports wait until a command runs: --help is quick.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import NightschoolError, UsageError

INTERRUPTED = 130
"""Exit code after ctrl-C, as a shell has it."""

app = typer.Typer(
    name="nightschool",
    help="Continual learning beside the model you serve: lessons by day, a measured update by night.",
    epilog="--home DIR and --json may stand anywhere. Without --home: NIGHTSCHOOL_HOME, else the data directory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
checkpoints = typer.Typer(help="The versions of the weights.", no_args_is_help=True)
behaviours = typer.Typer(help="What is taught, and how well it holds.", no_args_is_help=True)
model = typer.Typer(help="The embedded model.", no_args_is_help=True)
readout = typer.Typer(
    help="Concept vectors: what the model is doing, read off its residual stream.", no_args_is_help=True
)
app.add_typer(checkpoints, name="checkpoints")
app.add_typer(behaviours, name="behaviours")
app.add_typer(model, name="model")
app.add_typer(readout, name="readout")


@dataclass
class GlobalOptions:
    """The options that may stand anywhere."""

    home: Path | None = None
    json: bool = False


options = GlobalOptions()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"nightschool {version('nightschool')}")
        raise typer.Exit


@app.callback()
def _globals(
    home: Annotated[Path | None, typer.Option(help="The home to use.", metavar="DIR")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version)] = False,
) -> None:
    options.home, options.json = home, as_json


def _anywhere(arguments: list[str]) -> list[str]:
    """The arguments with --home and --json moved to the front, up to a `--`."""
    front, rest = [], list(arguments)
    end = rest.index("--") if "--" in rest else len(rest)
    index = 0
    while index < end:
        take = (
            2
            if rest[index] == "--home"
            else 1
            if rest[index] == "--json" or rest[index].startswith("--home=")
            else 0
        )
        front += rest[index : index + take]
        del rest[index : index + take]
        end -= take
        index += 0 if take else 1
    return front + rest


def main() -> None:
    """Entry point: the boundary at which errors become messages and exit codes."""
    import loop.cli.checkpoints  # noqa: F401  (they hang their commands on `app`)
    import loop.cli.everyday  # noqa: F401
    import loop.cli.readout  # noqa: F401
    import loop.cli.readout_views  # noqa: F401
    import loop.cli.steering  # noqa: F401
    import loop.cli.task_vectors  # noqa: F401

    options.home, options.json = None, "--json" in sys.argv
    os.umask(0o077)  # what is said in logs, and learnt from them, is this user's alone
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a command that is ended cleans up as for ctrl-C
    try:
        code = app(_anywhere(sys.argv[1:]), standalone_mode=False) or 0  # an Exit comes back as its code
    except typer.Exit as left:
        code = left.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except (Exception, BaseExceptionGroup) as error:
        code = _complain(error)
    sys.exit(code)


def _complain(error: BaseException) -> int:
    """Say what went wrong and what to do; returns the exit code."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if hasattr(error, "format_message"):  # click's own, which typer brings under one name or another
        message, code = str(error.format_message()), UsageError.exit_code
    elif isinstance(error, NightschoolError):
        message, code = str(error), error.exit_code
    elif isinstance(error, OSError):
        message, code = f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1
    elif type(error).__module__.startswith("sqlalchemy."):
        reason = getattr(error, "orig", None) or error
        message, code = f"the ledger cannot be used ({reason}): is the disk full, or the home not yours?", 1
    else:
        raise error
    if options.json:
        sys.stdout.write(json.dumps({"error": message, "exit_code": code}, ensure_ascii=False) + "\n")
    sys.stderr.write(message if message.startswith("Usage:") else f"nightschool: {message}\n")
    return code
