"""What the guardian puts into a served mapping, when, and what it leaves alone."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import anyio
import pytest
import torch
from safetensors.torch import load_file

from agents.model.settings import ModelSettings
from agents.model.vllm.configured import Configured
from agents.model.vllm.weights.watchdog import RETRY_S, Watchdog, check_model
from agents.model.weights.header import writer_lock
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import raw_weights
from corpus.errors import IntegrityFault
from corpus.recipe import MODEL_DIR
from loop.operations.init import init
from store.checkpoints.store import CheckpointStore
from store.home import Home, locked
from store.ledger.db import Ledger, database_url, now
from store.ledger.records import Checkpoint, save
from store.nights import history


@dataclass(kw_only=True)
class TrainerContext:
    """A home and the mapping that a vLLM of it has just made."""

    found: Configured
    shared: SharedWeights
    base: str

    @property
    def guardian(self) -> Watchdog:
        return Watchdog(self.shared, self.found)

    @property
    def store(self) -> CheckpointStore:
        return CheckpointStore(self.found.home.checkpoints)

    def keep(self, by: float, parent: str, number: int) -> str:
        """A kept checkpoint, now active: the loaded weights, each multiplied by `by`."""
        before = self.copy()
        for tensor in self.tensors.values():
            tensor.mul_(by)
        written = self.store.write(raw_weights(self.shared), None, {"parent": parent})
        for name, tensor in self.tensors.items():
            tensor.copy_(before[name])
        row = Checkpoint(
            id=written.id,
            parent_id=parent,
            number=number,
            weights_sha256=written.weights_sha256,
            update_id=None,
            state="kept",
            at=now(),
        )
        ledger = Ledger(database_url(self.found.home.path))
        with ledger.writing() as connection:
            save(connection, [row])
            history.point(connection, written.id, "kept by a test")
        ledger.close()
        return written.id

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Each tensor once."""
        return {raw: self.shared.tensors[raw] for raw in raw_weights(self.shared)}

    def copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.tensors.items()}

    def serves(self, weights: dict[str, torch.Tensor], times: float = 1.0) -> bool:
        return all(torch.equal(tensor, weights[name] * times) for name, tensor in self.tensors.items())

    def disturb(self) -> None:
        """Half an update, as a killed trainer leaves it."""
        self.shared.dirty, self.shared.holds = True, ""
        next(iter(self.tensors.values())).add_(1)
        self.shared.bump()

    def damage(self, checkpoint_id: str) -> None:
        blob = self.store.blobs.path(self.store.manifest(checkpoint_id)["weights"])
        blob.write_bytes(blob.read_bytes()[:-1] + b"\xff")


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "home"
    anyio.run(lambda: init(path, demo=False))
    return path


@pytest.fixture
def bench(made_home: Path, tmp_path: Path) -> TrainerContext:
    home = Home(tmp_path / "home")
    shutil.copytree(made_home, home.path)
    weights = load_file(MODEL_DIR / "model.safetensors")
    shared = SharedWeights.create(tmp_path / "weights.bin", weights, model=str(MODEL_DIR))
    found = Configured(home=home, model=ModelSettings(url="http://127.0.0.1:8000"), database="")
    base = next(iter(home.checkpoints.glob("*.json"))).stem
    return TrainerContext(found=found, shared=shared, base=base)


def state(shared: SharedWeights) -> tuple[str, bool]:
    return shared.holds, shared.dirty


def test_at_the_start_the_active_checkpoint_is_put_in(bench: TrainerContext) -> None:
    loaded = bench.copy()
    kept = bench.keep(2.0, bench.base, 1)
    bench.guardian.begin()
    assert bench.serves(loaded, 2.0) and state(bench.shared) == (kept, False)


def test_at_the_start_the_base_is_known_for_what_it_is_and_not_read(bench: TrainerContext) -> None:
    shutil.rmtree(bench.store.blobs.folder)
    bench.guardian.begin()
    assert state(bench.shared) == (bench.base, False) and bench.shared.version == 0


def test_a_base_that_is_not_what_was_loaded_is_put_in(bench: TrainerContext) -> None:
    loaded = bench.copy()
    next(iter(bench.tensors.values())).add_(1)
    bench.guardian.begin()
    assert bench.serves(loaded) and state(bench.shared) == (bench.base, False)


@pytest.mark.parametrize("missing", ["ledger.db", "home"])
def test_without_a_checkpoint_what_was_loaded_is_served(bench: TrainerContext, missing: str) -> None:
    if missing == "home":
        shutil.rmtree(bench.found.home.path)
    else:
        for file in bench.found.home.path.glob("ledger.db*"):
            file.unlink()
    before = bench.copy()
    check_model(bench.found, MODEL_DIR)
    bench.guardian.begin()
    assert bench.serves(before) and state(bench.shared) == ("", False)
    assert not (bench.found.home.path / "ledger.db").exists()


def test_a_damaged_checkpoint_is_said_and_what_was_loaded_is_served_as_dirty(
    bench: TrainerContext, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = bench.copy()
    bench.damage(bench.keep(2.0, bench.base, 1))
    bench.guardian.begin()
    assert bench.serves(loaded) and state(bench.shared) == ("", True)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "does not match its digest" in caplog.text


@pytest.mark.parametrize(
    "url", ["postgresql+nosuchdriver://nowhere/x", "nosense://", "sqlite:////dev/null/x/y.db"]
)
def test_a_ledger_that_cannot_be_read_keeps_the_mapping_dirty(
    bench: TrainerContext, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Configured(home=bench.found.home, model=bench.found.model, database=url)
    check_model(broken, MODEL_DIR)
    Watchdog(bench.shared, broken).begin()
    assert state(bench.shared) == ("", not url.startswith("sqlite"))  # no file is no ledger


def test_a_home_of_another_model_is_refused(bench: TrainerContext, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(MODEL_DIR, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    check_model(bench.found, MODEL_DIR)
    with pytest.raises(IntegrityFault, match="learns with another model"):
        check_model(bench.found, other)


def test_half_an_update_that_nobody_finishes_is_undone(bench: TrainerContext) -> None:
    loaded, kept = bench.copy(), bench.keep(2.0, bench.base, 1)
    bench.disturb()
    version = bench.shared.version
    bench.guardian.look()
    assert bench.serves(loaded, 2.0) and state(bench.shared) == (kept, False)
    assert bench.shared.version > version


def test_a_clean_mapping_is_left_alone(bench: TrainerContext) -> None:
    bench.keep(2.0, bench.base, 1)
    bench.guardian.look()
    assert bench.shared.version == 0 and state(bench.shared) == ("", False)


@pytest.mark.parametrize("who", ["service", "trainer"])
def test_while_a_service_or_a_trainer_lives_nothing_is_touched(bench: TrainerContext, who: str) -> None:
    bench.disturb()
    before, guardian = bench.copy(), bench.guardian
    with locked(bench.found.home) if who == "service" else writer_lock(bench.shared.path, wait=False):
        guardian.look()
        assert bench.serves(before) and state(bench.shared) == ("", True)
    guardian.look()
    assert state(bench.shared) == (bench.base, False)


def test_half_an_update_gives_way_to_the_newest_whole_checkpoint_when_the_active_one_is_damaged(
    bench: TrainerContext,
) -> None:
    loaded, first = bench.copy(), bench.keep(2.0, bench.base, 1)
    damaged = [bench.keep(3.0, first, 2)]
    damaged.append(bench.keep(4.0, damaged[0], 3))
    whole = {name: (bench.store.blobs.folder / name).read_bytes() for name in [blob_of(bench, damaged[1])]}
    for checkpoint_id in damaged:
        bench.damage(checkpoint_id)
    bench.disturb()
    clock = [0.0]
    guardian = Watchdog(bench.shared, bench.found, lambda: clock[0])
    guardian.look()
    assert bench.serves(loaded, 2.0) and state(bench.shared) == (first, True)
    for name, content in whole.items():  # somebody brings it back from a backup
        (bench.store.blobs.folder / name).write_bytes(content)
    guardian.look()
    assert state(bench.shared) == (first, True)  # what failed is not tried again at once
    clock[0] = RETRY_S
    guardian.look()
    assert bench.serves(loaded, 4.0) and state(bench.shared) == (damaged[1], False)


def blob_of(bench: TrainerContext, checkpoint_id: str) -> str:
    return bench.store.blobs.path(bench.store.manifest(checkpoint_id)["weights"]).name


def test_the_watch_goes_on_when_the_home_was_away(
    bench: TrainerContext, caplog: pytest.LogCaptureFixture
) -> None:
    aside = bench.found.home.path.with_name("aside")
    bench.found.home.path.rename(aside)
    bench.disturb()
    clock = [0.0]
    ended = Watchdog(bench.shared, bench.found, lambda: clock[0]).watch(every=0.01)
    until(lambda: "cannot be put in" in caplog.text)
    aside.rename(bench.found.home.path)
    clock[0] = RETRY_S
    until(lambda: state(bench.shared) == (bench.base, False))
    ended.set()


def until(true: Callable[[], bool]) -> None:
    began = monotonic()
    while not true():
        assert monotonic() - began < 20
        sleep(0.01)
