"""The commands for task vectors: what updates added to the weights, and how that is combined.

Invariant: as in `commands.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corpus.aliases import Json
from loop.cli import helpers
from loop.cli.app import checkpoints, options

if TYPE_CHECKING:
    from store.task_vectors.file import Vectors
    from store.task_vectors.merges import Recipe


@checkpoints.command("vector")
def checkpoints_vector(
    id: Annotated[str, typer.Argument(help="a checkpoint, or A..B: what the updates after A up to B added")],
    out: Annotated[Path | None, typer.Option(help="Write it there, as float32 safetensors.")] = None,
) -> None:
    """What an update, or a range of them, added to the weights."""
    from loop.cli.show import task_vectors
    from store.task_vectors import merges
    from store.task_vectors.recipe import Part

    found = helpers.read(merges.find, id)
    part = Part(start=found.start, end=found.end, weight=1.0)
    vectors = _of([part], "arithmetic", None)
    told: Json = {"from": found.start, "to": found.end, "updates": list(found.updates), **_figures(vectors)}
    told["out"] = None if out is None else str(out)
    if out is not None:
        vectors.write(out.absolute())
    helpers.show(told, task_vectors.vector)


@checkpoints.command("merge")
def checkpoints_merge(
    vectors: Annotated[
        list[str],
        typer.Argument(metavar="VECTOR[=WEIGHT]...", help="as in `vector`; a weight below 0 unlearns"),
    ],
    method: Annotated[str, typer.Option(help="arithmetic or ties.")] = "arithmetic",
    density: Annotated[
        float | None, typer.Option(help="Share of each tensor that ties keeps.", show_default="0.2")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="As in `night`.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would come to, and change nothing.")
    ] = False,
) -> None:
    """Add task vectors to the active checkpoint: a night without training, with the verdict of any other."""
    from loop.cli.show import everyday, task_vectors
    from store.task_vectors import merges

    if dry_run:
        helpers.show(_rehearsed(helpers.read(merges.recipe, vectors, method, density)), task_vectors.merge)
    else:
        helpers.show(
            helpers.perform("merge", vectors=vectors, method=method, density=density, seed=seed),
            everyday.night,
        )


def _rehearsed(recipe: "Recipe") -> Json:
    """What a merge would be, from the files alone."""
    from loop.config import load_settings
    from loop.engine.schedule import OBSERVING
    from store import home, queries

    vectors = _of(recipe.parts(), recipe.method, recipe.density)
    trains = load_settings(home.find(options.home).config_file).trains
    return {
        "dry_run": True,
        "checkpoint": helpers.read(queries.active)["id"],
        **recipe.settings(),
        "rise": list(recipe.rise),
        "pairs": {"learnt": list(recipe.pairs.values()).count(False), "unlearnt": sum(recipe.pairs.values())},
        "reasons": [] if trains else [f"the merge would be refused: {OBSERVING}"],
        **_figures(vectors),
    }


def _of(parts: Any, method: str, density: float | None) -> "Vectors":
    """These vectors of the home's checkpoint files."""
    from store import home
    from store.checkpoints.store import CheckpointStore
    from store.task_vectors.file import Vectors

    store = CheckpointStore(home.find(options.home).checkpoints)
    return Vectors(store, parts, method=method, density=density)


def _figures(vectors: "Vectors") -> Json:
    """How much a vector changes, by kind of weight and in all."""
    from dataclasses import asdict

    from store.task_vectors.recipe import Extent

    kinds = vectors.by_kind()
    whole = sum(kinds.values(), Extent())
    return {**asdict(whole), "kinds": [{"kind": kind, **asdict(of)} for kind, of in kinds.items()]}
