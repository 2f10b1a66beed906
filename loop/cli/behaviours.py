"""The commands on behaviours: list them, check a behaviour file, and measure pass rates."""

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

    Each behaviour is followed by its counter-behaviour.
    """
    from loop.cli.show import home as show_home
    from loop.engine.model_identity import behaviours_of
    from loop.operations.results.home import BehaviourList, DeclaredBehaviour
    from store import home, queries
    from store.nights import report

    known = behaviours_of(home.find(options.home), helpers.read(queries.model_digest))
    rows = [
        DeclaredBehaviour(
            name=behaviour.name,
            counter_of=behaviour.counter_of,
            condition=behaviour.condition,
            do=behaviour.do,
            required_rate=behaviour.required_rate,
        )
        for behaviour in report.ordered(known)
    ]
    helpers.show(BehaviourList(behaviours=rows), show_home.behaviours)


@behaviours.command("validate")
def behaviours_validate(
    file: Annotated[Path, typer.Argument(help="a TOML file that declares a behaviour")],
) -> None:
    """Check a file that declares a behaviour."""
    from corpus.behaviour import load_file

    names = [behaviour.name for behaviour in load_file(file)]
    helpers.show(
        {"valid": True, "behaviours": names}, lambda _: helpers.echo(f"{file}: valid ({' and '.join(names)})")
    )


@behaviours.command("measure")
def behaviours_measure(seed: Seed = None) -> None:
    """Measure the pass rates of the active weights.

    The command prints each behaviour's pass rate on its held-out scenarios, with the 95 % interval.
    """
    from loop.cli.show import home as show_home
    from loop.operations.operations import Operations

    helpers.show(helpers.perform(Operations.measure, seed=seed), show_home.measured)
