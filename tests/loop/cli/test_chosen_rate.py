"""The line of a night's output that says what an update was trained with."""

import pytest

from loop.cli.show.night import _origin
from store.nights.results import TrainedWith, UpdateSummary


@pytest.mark.parametrize(
    "chosen, said",
    [
        (None, "(orpo)"),
        (TrainedWith(lr=1e-3, first_share=None, compute="weights"), "(orpo), learning rate 0.001"),
        (
            TrainedWith(lr=1.9e-4, first_share=0.0008, compute="bfloat16"),
            "learning rate 0.00019 (found: a first step of 0.08% of the weights' norm), computed in bfloat16",
        ),
    ],
)
def test_an_updates_line_says_its_rate_and_how_it_was_found(chosen: TrainedWith | None, said: str) -> None:
    update = UpdateSummary(
        id="u1",
        objective="orpo",
        steps=18,
        pairs=72,
        verdict="keep",
        checkpoint="c",
        reasons=[],
        chosen=chosen,
    )
    assert _origin(update).startswith("18 steps over 72 pairs (orpo)") and _origin(update).endswith(said)
