"""What an attacker, an accident or a full disk does to a home; helpers are those of `tests/loop`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "loop"))
import small
from small import Command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run the command line's entry point in this process."""
    with small.in_process(monkeypatch, capsys) as call:
        yield call
