"""The commands on behaviours: list them, check a file that declares one, measure their pass rates."""

from pathlib import Path
from typing import Annotated

import typer

from loop.cli import helpers
from loop.cli.helpers import Seed, options

behaviours = typer.Typer(
    help="Behaviours: what nights teach, and how well it is learnt.", no_args_is_help=True
)


@behaviours.command("list")
def behaviours_list() -> None:
    """List the behaviours of this home.

    Each is followed by its counter-behaviour.
    """
    from loop.cli.show import home as show_home
    from loop.operations.results.home import BehaviourList, DeclaredBehaviour
    from store import home
    from store.nights import report

    rows = [
        DeclaredBehaviour(
            name=behaviour.name,
            counter_of=behaviour.counter_of,
            condition=behaviour.condition,
            do=behaviour.do,
            required_rate=behaviour.required_rate,
        )
        for behaviour in report.ordered(home.find(options.home).behaviours())
    ]
    helpers.show(BehaviourList(behaviours=rows), show_home.behaviours)


@behaviours.command("validate")
def behaviours_validate(
    file: Annotated[Path, typer.Argument(help="a TOML file that declares a behaviour")],
) -> None:
    """Check a behaviour file."""
    from corpus.behaviour import load_file

    names = [behaviour.name for behaviour in load_file(file)]
    helpers.show(
        {"valid": True, "behaviours": names}, lambda _: typer.echo(f"{file}: valid ({' and '.join(names)})")
    )


@behaviours.command("measure")
def behaviours_measure(seed: Seed = None) -> None:
    """Measure the active weights on the held-out scenarios.

    Prints the pass rate of each behaviour with its 95 % interval.
    """
    from loop.cli.show import home as show_home
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.measure, seed=seed), show_home.measured)
