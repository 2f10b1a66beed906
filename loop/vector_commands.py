"""The commands for task vectors: what updates added to the weights, and how that is combined.

Invariant: as in `commands.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop import carry
from loop.cli import checkpoints, said

if TYPE_CHECKING:
    from store.merges import Recipe
    from store.vector_file import Vectors

Json = dict[str, Any]


@checkpoints.command("vector")
def checkpoints_vector(
    id: Annotated[str, typer.Argument(help="a checkpoint, or A..B: what the updates after A up to B added")],
    out: Annotated[Path | None, typer.Option(help="Write it there, as float32 safetensors.")] = None,
) -> None:
    """What an update, or a range of them, added to the weights."""
    from loop import show_vectors
    from store import merges
    from store.merge_parts import Part

    found = carry.read(merges.find, id)
    part = Part(start=found.start, end=found.end, weight=1.0)
    vectors = _of([part], "arithmetic", None)
    told: Json = {"from": found.start, "to": found.end, "updates": list(found.updates), **_figures(vectors)}
    told["out"] = None if out is None else str(out)
    if out is not None:
        vectors.write(out.absolute())
    carry.show(told, show_vectors.vector)


@checkpoints.command("merge")
def checkpoints_merge(
    vectors: Annotated[
        list[str], typer.Argument(metavar="VECTOR[=WEIGHT]...", help="as in `vector`; a weight below 0 unlearns")
    ],
    method: Annotated[str, typer.Option(help="arithmetic or ties.")] = "arithmetic",
    density: Annotated[
        float | None, typer.Option(help="Share of each tensor that ties keeps.", show_default="0.2")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="As in `night`.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would come to, and change nothing.")] = False,
) -> None:
    """Add task vectors to the active checkpoint: a night without training, with the verdict of any other."""
    from loop import show, show_vectors
    from store import merges

    if dry_run:
        carry.show(_rehearsed(carry.read(merges.recipe, vectors, method, density)), show_vectors.merge)
    else:
        carry.show(carry.perform("merge", vectors=vectors, method=method, density=density, seed=seed), show.night)


def _rehearsed(recipe: "Recipe") -> Json:
    """What a merge would be, from the files alone."""
    from loop.config import load_settings
    from loop.schedule import OBSERVING
    from store import home, queries

    vectors = _of(recipe.parts(), recipe.method, recipe.density)
    trains = load_settings(home.find(said.home).config_file).trains
    return {
        "dry_run": True,
        "checkpoint": carry.read(queries.active)["id"],
        **recipe.settings(),
        "rise": list(recipe.rise),
        "pairs": {"learnt": list(recipe.pairs.values()).count(False), "unlearnt": sum(recipe.pairs.values())},
        "reasons": [] if trains else [f"the merge would be refused: {OBSERVING}"],
        **_figures(vectors),
    }


def _of(parts: Any, method: str, density: float | None) -> "Vectors":
    """These vectors of the home's checkpoint files."""
    from store import home
    from store.checkpoints import CheckpointStore
    from store.vector_file import Vectors

    store = CheckpointStore(home.find(said.home).checkpoints)
    return Vectors(store, parts, method=method, density=density)


def _figures(vectors: "Vectors") -> Json:
    """How much a vector changes, by kind of weight and in all."""
    from dataclasses import asdict

    from store.merge_parts import Extent

    kinds = vectors.by_kind()
    whole = sum(kinds.values(), Extent())
    return {**asdict(whole), "kinds": [{"kind": kind, **asdict(of)} for kind, of in kinds.items()]}
