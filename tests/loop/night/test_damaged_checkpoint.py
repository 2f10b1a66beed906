"""A damaged checkpoint is neither served nor trained on, and no night hangs because of it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from chaos import CONFIG, START_S, Place, cleaned_up, faults, prepared_home


def damage(place: Place) -> Callable[[], object]:
    """Flip a bit in the middle of the base's weights; return a function that repairs it."""
    (blob,) = (place.path / "checkpoints" / "blobs").iterdir()
    whole = blob.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    blob.write_bytes(flipped)
    return partial(blob.write_bytes, whole)


def test_a_damaged_active_checkpoint_is_not_served(tmp_path: Path) -> None:
    with cleaned_up(Place(tmp_path / "home")) as place:
        place.do("init")
        damage(place)
        asking = place.start("ask", "Please wax the shelf.")
        assert asking.ended() == 12
        assert "damaged" in asking.log() and "Traceback" not in asking.log()
        assert [fault for fault in faults(place) if fault.endswith("is left")] == []


@pytest.mark.slow
def test_a_night_that_cannot_restore_its_parent_reports_it_and_ends_when_the_parent_is_repaired(
    tmp_path: Path,
) -> None:
    with cleaned_up(prepared_home(tmp_path)) as place:
        (place.path / "config.toml").write_text(CONFIG.replace("drift = 100.0", "drift = 0.0001"))
        service = place.start("run")
        service.wait_until(lambda: " ready " in service.log(), "it is ready", START_S)
        repair = damage(place)
        asking = place.start("--json", "night")
        assert service.ended() == 12, service.log()
        assert asking.ended() != 0
        repair()
        status = place.do("night")
        assert [update["verdict"] for update in status["updates"]] == ["roll back"]
        assert faults(place) == []
