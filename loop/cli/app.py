"""The entry point of the command line: assembles the commands, and turns errors into messages and exit codes.

Invariant: no error that a user can cause ends in a traceback. With --json, an error too is printed as one
JSON object to stdout.
"""

import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import NightschoolError, UsageError
from corpus.text import json_line, visible
from loop.cli import backup, behaviours, checkpoints, home, lessons, model, readout, service
from loop.cli.helpers import options

INTERRUPTED = 130
"""Exit code after ctrl-C, the same as a shell's."""

app = typer.Typer(
    name="nightschool",
    help="Continual learning beside the model that you serve: lessons by day, a measured update by night.",
    epilog=(
        "--home DIR and --json may stand anywhere in a command line. "
        "Without --home: NIGHTSCHOOL_HOME, else ~/.local/share/nightschool."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _group in (home, service, checkpoints, model, backup):
    app.add_typer(_group.commands)
app.add_typer(checkpoints.checkpoints, name="checkpoints")
app.add_typer(backup.backup, name="backup")
app.add_typer(behaviours.behaviours, name="behaviours")
app.add_typer(lessons.lessons, name="lessons")
app.add_typer(readout.readout, name="readout")
app.add_typer(model.model, name="model")


def _version(wanted: bool) -> None:
    """Print the version and exit, if the option --version is given."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"nightschool {version('nightschool')}")
        raise typer.Exit


@app.callback()
def _globals(
    home: Annotated[Path | None, typer.Option(help="Use this home.", metavar="DIR")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, to stdout.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version)] = False,
) -> None:
    options.home, options.json = home, as_json


def _move_globals_first(arguments: list[str]) -> list[str]:
    """Return the arguments with --home and --json moved to the front; those after a `--` are not moved."""
    front, rest = [], list(arguments)
    end = rest.index("--") if "--" in rest else len(rest)
    index = 0
    while index < end:
        if rest[index] == "--home":
            count = 2
        elif rest[index] == "--json" or rest[index].startswith("--home="):
            count = 1
        else:
            index += 1
            continue
        front += rest[index : index + count]
        del rest[index : index + count]
        end -= count
    return front + rest


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    options.home, options.json = None, "--json" in sys.argv
    _make_writable()
    os.umask(0o077)  # the files of a home can be read only by their owner
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM cleans up as ctrl-C does
    try:
        arguments = _move_globals_first(sys.argv[1:])
        code = app(arguments, standalone_mode=False) or 0  # click returns the code of an Exit exception
    except typer.Exit as early:
        code = early.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except (Exception, BaseExceptionGroup) as error:
        code = _report(error)
    sys.exit(code)


def _make_writable() -> None:
    """Have every character reach stdout and stderr, also in ASCII; what goes to closed ones is dropped."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # `>&-`: without a stand-in, the next file to be opened would get this number
            _stand_in(descriptor)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, errors="backslashreplace", closefd=False))
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            stream.reconfigure(errors="backslashreplace")


def _stand_in(descriptor: int) -> None:
    """Open the null device under this number, unless something is open there."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _report(error: BaseException) -> int:
    """Print an error's message and return its exit code; raise an error again that nobody expects."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if hasattr(error, "format_message"):  # a usage error of click; typer has copies of its classes
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
        sys.stdout.write(json_line({"error": message, "exit_code": code}) + "\n")
    is_help = message.startswith("Usage:")
    sys.stderr.write(visible(message, keep="\n") if is_help else f"nightschool: {visible(message)}\n")
    return code
