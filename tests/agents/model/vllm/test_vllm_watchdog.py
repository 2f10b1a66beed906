"""The watchdog: which checkpoints it restores, when, and what it leaves alone."""

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
from agents.model.vllm.config import PluginConfig
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
class ServedHome:
    """A home, and the shared weights that a vLLM of it has just made."""

    config: PluginConfig
    shared: SharedWeights
    base: str

    @property
    def watchdog(self) -> Watchdog:
        return Watchdog(self.shared, self.config)

    @property
    def store(self) -> CheckpointStore:
        return CheckpointStore(self.config.home.checkpoints)

    def keep(self, by: float, parent: str, number: int) -> str:
        """Make the loaded weights times `by` a kept checkpoint, and the active one; return its id."""
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
        ledger = Ledger(database_url(self.config.home.path))
        with ledger.writing() as connection:
            save(connection, [row])
            history.point(connection, written.id, "kept by a test")
        ledger.close()
        return written.id

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors, each once."""
        return {raw: self.shared.tensors[raw] for raw in raw_weights(self.shared)}

    def copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.tensors.items()}

    def serves(self, weights: dict[str, torch.Tensor], times: float = 1.0) -> bool:
        return all(torch.equal(tensor, weights[name] * times) for name, tensor in self.tensors.items())

    def disturb(self) -> None:
        """Leave an unfinished update, as a killed trainer does."""
        self.shared.dirty, self.shared.holds = True, ""
        next(iter(self.tensors.values())).add_(1)
        self.shared.bump()

    def damage(self, checkpoint_id: str) -> None:
        blob = self.store.blobs.path(self.store.manifest(checkpoint_id).weights)
        blob.write_bytes(blob.read_bytes()[:-1] + b"\xff")


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "home"
    anyio.run(lambda: init(path, demo=False))
    return path


@pytest.fixture
def served(made_home: Path, tmp_path: Path) -> ServedHome:
    home = Home(tmp_path / "home")
    shutil.copytree(made_home, home.path)
    weights = load_file(MODEL_DIR / "model.safetensors")
    shared = SharedWeights.create(tmp_path / "weights.bin", weights, model=str(MODEL_DIR))
    config = PluginConfig(home=home, model=ModelSettings(url="http://127.0.0.1:8000"), database="")
    base = next(iter(home.checkpoints.glob("*.json"))).stem
    return ServedHome(config=config, shared=shared, base=base)


def state(shared: SharedWeights) -> tuple[str, bool]:
    return shared.holds, shared.dirty


def test_the_active_checkpoint_is_restored_at_the_start(served: ServedHome) -> None:
    loaded = served.copy()
    kept_id = served.keep(2.0, served.base, 1)
    served.watchdog.restore_at_start()
    assert served.serves(loaded, 2.0) and state(served.shared) == (kept_id, False)


def test_at_the_start_a_loaded_base_is_recognised_without_reading_it(served: ServedHome) -> None:
    shutil.rmtree(served.store.blobs.folder)
    served.watchdog.restore_at_start()
    assert state(served.shared) == (served.base, False) and served.shared.version == 0


def test_at_the_start_a_base_that_differs_from_the_loaded_weights_is_restored(served: ServedHome) -> None:
    loaded = served.copy()
    next(iter(served.tensors.values())).add_(1)
    served.watchdog.restore_at_start()
    assert served.serves(loaded) and state(served.shared) == (served.base, False)


@pytest.mark.parametrize("missing", ["ledger.db", "home"])
def test_without_a_checkpoint_the_loaded_weights_are_served(served: ServedHome, missing: str) -> None:
    if missing == "home":
        shutil.rmtree(served.config.home.path)
    else:
        for file in served.config.home.path.glob("ledger.db*"):
            file.unlink()
    before = served.copy()
    check_model(served.config, MODEL_DIR)
    served.watchdog.restore_at_start()
    assert served.serves(before) and state(served.shared) == ("", False)
    assert not (served.config.home.path / "ledger.db").exists()


def test_a_damaged_checkpoint_is_logged_and_the_loaded_weights_are_served_as_dirty(
    served: ServedHome, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = served.copy()
    served.damage(served.keep(2.0, served.base, 1))
    served.watchdog.restore_at_start()
    assert served.serves(loaded) and state(served.shared) == ("", True)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "does not match its digest" in caplog.text


@pytest.mark.parametrize(
    "url", ["postgresql+nosuchdriver://nowhere/x", "nosense://", "sqlite:////dev/null/x/y.db"]
)
def test_an_unreadable_ledger_keeps_the_weights_dirty(
    served: ServedHome, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = PluginConfig(home=served.config.home, model=served.config.model, database=url)
    check_model(broken, MODEL_DIR)
    Watchdog(served.shared, broken).restore_at_start()
    assert state(served.shared) == ("", not url.startswith("sqlite"))  # no file is no ledger


def test_a_home_of_another_model_is_refused(served: ServedHome, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(MODEL_DIR, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    check_model(served.config, MODEL_DIR)
    with pytest.raises(IntegrityFault, match="learns with another model"):
        check_model(served.config, other)


def test_an_abandoned_update_is_undone(served: ServedHome) -> None:
    loaded, kept_id = served.copy(), served.keep(2.0, served.base, 1)
    served.disturb()
    version = served.shared.version
    served.watchdog.check()
    assert served.serves(loaded, 2.0) and state(served.shared) == (kept_id, False)
    assert served.shared.version > version


def test_clean_weights_are_left_alone(served: ServedHome) -> None:
    served.keep(2.0, served.base, 1)
    served.watchdog.check()
    assert served.shared.version == 0 and state(served.shared) == ("", False)


@pytest.mark.parametrize("who", ["service", "trainer"])
def test_while_a_service_or_a_trainer_lives_nothing_is_touched(served: ServedHome, who: str) -> None:
    served.disturb()
    before, watchdog = served.copy(), served.watchdog
    with locked(served.config.home) if who == "service" else writer_lock(served.shared.path, wait=False):
        watchdog.check()
        assert served.serves(before) and state(served.shared) == ("", True)
    watchdog.check()
    assert state(served.shared) == (served.base, False)


def test_an_unfinished_update_is_replaced_by_the_newest_whole_checkpoint_if_the_active_one_is_damaged(
    served: ServedHome,
) -> None:
    loaded, first = served.copy(), served.keep(2.0, served.base, 1)
    damaged = [served.keep(3.0, first, 2)]
    damaged.append(served.keep(4.0, damaged[0], 3))
    whole = {name: (served.store.blobs.folder / name).read_bytes() for name in [blob_of(served, damaged[1])]}
    for checkpoint_id in damaged:
        served.damage(checkpoint_id)
    served.disturb()
    clock = [0.0]
    watchdog = Watchdog(served.shared, served.config, lambda: clock[0])
    watchdog.check()
    assert served.serves(loaded, 2.0) and state(served.shared) == (first, True)
    for name, content in whole.items():  # somebody brings it back from a backup
        (served.store.blobs.folder / name).write_bytes(content)
    watchdog.check()
    assert state(served.shared) == (first, True)  # what failed is not tried again at once
    clock[0] = RETRY_S
    watchdog.check()
    assert served.serves(loaded, 4.0) and state(served.shared) == (damaged[1], False)


def blob_of(served: ServedHome, checkpoint_id: str) -> str:
    return served.store.blobs.path(served.store.manifest(checkpoint_id).weights).name


def test_the_watchdog_survives_a_home_that_is_away_for_a_while(
    served: ServedHome, caplog: pytest.LogCaptureFixture
) -> None:
    aside = served.config.home.path.with_name("aside")
    served.config.home.path.rename(aside)
    served.disturb()
    clock = [0.0]
    ended = Watchdog(served.shared, served.config, lambda: clock[0]).start(every=0.01)
    until(lambda: "cannot be restored" in caplog.text)
    aside.rename(served.config.home.path)
    clock[0] = RETRY_S
    until(lambda: state(served.shared) == (served.base, False))
    ended.set()


def until(true: Callable[[], bool]) -> None:
    began = monotonic()
    while not true():
        assert monotonic() - began < 20
        sleep(0.01)
