"""The whole loop on a user's own vLLM: nothing but `model.url` is set, and it is never started again."""

from collections.abc import Iterator

import pytest
from conftest import Vllm, free_port, serving
from homes import SEATS, configure, logprobs, vllm_home
from small import tell

from agents.model.mapping import SharedWeights
from agents.model.vllm.place import Place


class School:
    """One home on one vLLM, taken through its days; each step is a value that the tests look at."""

    def __init__(self, vllm: Vllm) -> None:
        self.vllm, self.home = vllm, vllm.home.path
        self.base: str = tell(self.home, "status")["checkpoint"]
        self.before = logprobs(vllm)
        self.observed = tell(self.home, "night")
        self.unchanged = logprobs(vllm)
        self.standing = tell(self.home, "status")
        self.checks = {one["check"]: one for one in tell(self.home, "doctor")["checks"]}
        configure(vllm.home, vllm.url, trains=True)
        self.night = tell(self.home, "night")
        self.after = logprobs(vllm)

    def held(self) -> tuple[str, bool]:
        """Which checkpoint is served, and whether it may be in mid-update."""
        shared = SharedWeights.attach(Place(self.vllm.home.served_dir).mapping)
        return shared.holds, shared.dirty


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    place, port = tmp_path_factory.mktemp("loop"), free_port()
    home = vllm_home(place / "home", f"http://127.0.0.1:{port}", trains=None)
    with serving(home, place / "vllm.log", port=port, arguments=SEATS) as vllm:
        yield School(vllm)


def test_until_training_is_switched_on_a_night_does_everything_but_the_update(school: School) -> None:
    assert school.observed["pairs"] >= 8 and school.observed["updates"] == []
    assert "training.enabled is false" in school.observed["reasons"][0]
    assert school.unchanged == school.before
