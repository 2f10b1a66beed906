"""The commands on a home: make it, show and check it, read logs into it, and forget conversations."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import UsageError
from loop.cli import helpers
from loop.cli.helpers import DryRun, options

commands = typer.Typer()


@commands.command()
def init(
    demo: Annotated[bool, typer.Option("--demo", help="Load the bundled conversations.")] = False,
    url: Annotated[str, typer.Option(help="Address of your own vLLM, such as http://127.0.0.1:8000.")] = "",
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The model: a Hugging Face directory, a .gguf file, or ORG/NAME[@REVISION] on the hub; "
            "default: the embedded model, or the one at --url.",
        ),
    ] = "",
) -> None:
    """Make a home for the embedded model, for your own model, or for your own vLLM.

    The model's weights become checkpoint 0.
    """
    import anyio

    from loop.cli.show import home as show_home
    from loop.cli.show.console import progress, set_up_logs
    from loop.operations.init import init as init_home

    set_up_logs()
    make = partial(init_home, options.home, demo=demo, url=url, model=model)
    if model:
        with progress() as listener:
            result = anyio.run(partial(make, on_part=partial(listener, "import", Path(model).name)))
    else:
        result = anyio.run(make)
    helpers.show(result, show_home.made)


@commands.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="log files, or folders of them")],
    format: Annotated[
        str | None,
        typer.Option(help="A format of docs/reference/logs.md; default: recognised by content."),
    ] = None,
    ratings: Annotated[
        str,
        typer.Option(help="The worst and the best rating, such as 1..5; default: found from all lines."),
    ] = "",
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what would be stored, without a home, and store nothing.")
    ] = False,
) -> None:
    """Read conversation logs into the ledger.

    With `--preview`, show the conversations, ratings, edits and signals in them, and what is skipped and why.
    """
    from loop.cli.show import ledger as show_ledger

    if preview:
        from loop.operations.results.preview import previewed

        shown = previewed(paths, format, ratings)
        helpers.show(shown, show_ledger.previewed)
        if shown.set_aside:
            raise typer.Exit(3)
        return
    from loop.operations.operations import Operations

    result = helpers.perform(
        Operations.ingest, paths=[str(path.absolute()) for path in paths], format=format, ratings=ratings
    )
    helpers.show(result, show_ledger.ingested)
    if result.set_aside:
        raise typer.Exit(3)


@commands.command()
def forget(
    source: Annotated[str, typer.Argument(help="a source's name, a conversation's id, or a log file")],
    dry_run: DryRun = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Also roll back to the last kept checkpoint from before them.")
    ] = False,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="As --rollback, and then run a night that learns the rest again."),
    ] = False,
) -> None:
    """Remove conversations and all that was derived from them.

    The command names the updates that learnt from these conversations, and your own logs that still hold
    them.
    """
    from loop.cli.show import ledger as show_ledger
    from loop.cli.show import night as show_night
    from loop.operations.operations import Operations
    from loop.operations.results.nights import NightResult

    result = helpers.perform(
        Operations.forget,
        source=source,
        path=str(Path(source).absolute()),
        dry_run=dry_run,
        rollback=rollback or retrain,
    )
    if retrain and result.rolled_back:
        night = helpers.perform(Operations.night, retry=True)
        assert isinstance(night, NightResult)
        result = replace(result, commands=[], night=night)
    helpers.show(result, show_ledger.forgotten)
    if result.night is not None and not options.json:
        show_night.night(result.night)


@commands.command()
def status() -> None:
    """Show the state of the home, whether a service runs or not."""
    from loop.cli.show import home as show_home
    from loop.operations.status import status as status_of

    helpers.show(status_of(options.home), show_home.status)


@commands.command()
def ledger(
    what: Annotated[
        str, typer.Argument(help="conversations, updates, pairs, dreams, signals, events or why")
    ],
    id: Annotated[str | None, typer.Argument(help="an update or a pair, for `why`")] = None,
    limit: Annotated[int, typer.Option(min=1, help="List this many of the newest rows.")] = 20,
) -> None:
    """List rows of the ledger, or trace an update to its log lines.

    `ledger why ID` shows the log lines from which an update or a pair came, and the course of the evidence on
    which the verdict on an update rests.
    """
    from loop.cli.show import ledger as show_ledger
    from loop.operations.status import why
    from store.nights import report

    if what == "why":
        if id is None:
            raise UsageError(
                "`ledger why` needs the id of an update or a pair: see `ledger updates`, `ledger pairs`"
            )
        helpers.show(helpers.read(why, id), show_ledger.why)
    elif what in report.LISTS:
        rows = helpers.read(report.listing, what, limit)
        named = [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]
        helpers.show({what: named}, lambda _: show_ledger.rows(what, rows))
    else:
        raise UsageError(f"there is no list {what!r}; there are {', '.join(report.LISTS)} and why ID")


@commands.command()
def doctor() -> None:
    """Check everything that a night needs.

    If a check fails, its message tells you what to do.
    """
    from loop.cli.show import home as show_home
    from loop.operations.doctor import doctor as check_home

    result = check_home(options.home)
    helpers.show(result, show_home.doctor)
    if not all(check.ok for check in result.checks):
        raise typer.Exit(1)


@commands.command()
def scrub(
    check: Annotated[
        Path, typer.Option("--check", help="A file, whose secrets are counted.", metavar="FILE")
    ],
) -> None:
    """Show which secrets would be removed from a file before it is stored.

    Each line is searched alone, as in a log. The file is not changed, and no secret is printed.
    """
    from corpus.scrub.patterns import kinds_of
    from loop.cli.show import ledger as show_ledger
    from loop.operations.results.home import LineWithSecrets, ScrubCheck

    texts = check.read_text(errors="replace").splitlines()
    found = [LineWithSecrets(line=number, secrets=kinds_of(text)) for number, text in enumerate(texts, 1)]
    lines = [line for line in found if line.secrets]
    helpers.show(ScrubCheck(file=str(check), count=len(texts), lines=lines), show_ledger.scrubbed)


@commands.command()
def token(
    operations: Annotated[
        bool, typer.Option("--operations", help="The token that opens everything, not that for chats.")
    ] = False,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new one first; the old one no longer opens.")
    ] = False,
) -> None:
    """Print the token for chats and their receipts, or the one for everything.

    The token for everything also opens rollback, forget, prune and the reading of files, so give clients the
    one for chats. Rotating the token for everything needs the service to be stopped.
    """
    from store import home

    result = home.token_of(home.find(options.home), operations=operations, rotate=rotate)
    helpers.show({"token": result}, lambda value: helpers.echo(value["token"]))


@commands.command()
def config() -> None:
    """Print the configuration that is in effect."""
    from loop.config import load_settings, shown
    from store import home

    helpers.show(
        shown(load_settings(home.find(options.home).config_file)),
        lambda value: helpers.echo(json.dumps(value, indent=2)),
    )
