"""The commands on lessons: behaviours that are proposed from complaints, for a person to decide on."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from loop.cli import helpers
from loop.cli.helpers import options

if TYPE_CHECKING:
    from loop.lessons.results import Decided, Lesson

lessons = typer.Typer(
    help="Lessons: behaviours that complaints propose, to accept or to reject. Without a command, "
    "`lessons` lists the open ones; `lessons --all` also those that rest on a single conversation or are "
    "decided.",
    invoke_without_command=True,
)
Number = Annotated[int, typer.Argument(help="number of the proposal, from `lessons`")]
KEYS = "a accept   e edit, then accept   r reject   l later   s skip   q quit"


@lessons.callback()
def _list(
    context: typer.Context,
    all_: Annotated[
        bool,
        typer.Option(
            "--all", help="List also those that rest on a single conversation, and those that are decided."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        from loop.cli.show import lessons as show_lessons
        from loop.operations.operations import Operations

        helpers.show(helpers.perform(Operations.lessons, everything=all_), show_lessons.listed)


@lessons.command("show")
def show(number: Number) -> None:
    """Show one proposal: the rule, its judge, the complaints with their places, and the drafted file."""
    from loop.cli.show import lessons as show_lessons

    helpers.show(_lesson(number), show_lessons.one)


@lessons.command("accept")
def accept(
    number: Number,
    edit: Annotated[bool, typer.Option("--edit", help="Change the behaviour file in $EDITOR first.")] = False,
) -> None:
    """Accept a proposal: write its behaviour file, and have the next night learn from its complaints.

    The file is in the home's behaviours/, with its counter-behaviour and its held-out requests. A service
    that is running knows the behaviour at once.
    """
    _decided(_accept(number, _edited(number) if edit else None))


@lessons.command("reject")
def reject(
    number: Number,
    because: Annotated[str, typer.Option("--because", help="Why; it is kept with the proposal.")],
) -> None:
    """Reject a proposal. It comes back only when two more conversations complain."""
    from loop.operations.operations import Operations

    _decided(helpers.perform(Operations.lesson_reject, number=number, because=because))


@lessons.command("later")
def later(number: Number) -> None:
    """Put a proposal off until there is new evidence."""
    from loop.operations.operations import Operations

    _decided(helpers.perform(Operations.lesson_later, number=number))


@lessons.command("merge")
def merge(
    number: Number,
    into: Annotated[int, typer.Argument(help="number of the proposal that takes its evidence")],
) -> None:
    """Merge a proposal into another one that means the same."""
    from loop.operations.operations import Operations

    _decided(helpers.perform(Operations.lesson_merge, number=number, into=into))


@lessons.command("review")
def review() -> None:
    """Go through the open proposals one by one, each decided with a single key."""
    from corpus.errors import UsageError
    from loop.cli.show import lessons as show_lessons
    from loop.operations.operations import Operations

    if options.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "lessons review reads single keys from a terminal; without one, use `lessons`, `lessons show N`, "
            "and `lessons accept N`, `reject N --because TEXT` or `later N`"
        )
    for lesson in helpers.perform(Operations.lessons).lessons:
        show_lessons.one(lesson, with_file=False)
        if not _reviewed(lesson):
            return
    helpers.echo("that was the last one")


def _reviewed(lesson: "Lesson") -> bool:
    """Ask for a key until there is a decision on a proposal; return whether to go on."""
    import click

    from corpus.errors import NightschoolError
    from loop.operations.operations import Operations

    number = lesson.number
    while True:
        helpers.echo(KEYS)
        key = click.getchar().lower()
        try:
            if key in ("a", "e"):
                _decided(_accept(number, _edited(number) if key == "e" else None))
            elif key == "r":
                because = typer.prompt("because")
                _decided(helpers.perform(Operations.lesson_reject, number=number, because=because))
            elif key == "l":
                _decided(helpers.perform(Operations.lesson_later, number=number))
            elif key not in ("s", "q"):
                continue
            return key != "q"
        except NightschoolError as error:
            helpers.echo(str(error))


def _lesson(number: int) -> "Lesson":
    from loop.operations.operations import Operations

    return helpers.perform(Operations.lesson, number=number)


def _accept(number: int, text: str | None) -> "Decided":
    from loop.operations.operations import Operations

    return helpers.perform(Operations.lesson_accept, number=number, text=text)


def _edited(number: int) -> str:
    """Return a proposal's behaviour file as the user has changed it in an editor."""
    import click

    from agents.proposer.draft import SKELETON
    from corpus.errors import UsageError

    draft = _lesson(number).draft or SKELETON
    text = click.edit(draft, extension=".toml")
    if text is None and draft == SKELETON:
        raise UsageError("nothing was written: the proposal is as it was")
    return draft if text is None else text


def _decided(decided: "Decided") -> None:
    from loop.cli.show import lessons as show_lessons

    helpers.show(decided, show_lessons.decided)
