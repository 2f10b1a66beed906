"""`doctor`: checks of everything that a night needs, each with what to do where it fails.

Invariant: reads only, whether a service runs or not. A check that fails ends no other.
"""

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from agents.model.safety import check_model_dir
from corpus.errors import ConfigError, NightschoolError
from loop.config import load_settings
from loop.engine import model_identity
from loop.operations import doctor_vllm
from loop.operations.results.home import Check, DoctorReport
from loop.operations.status import ledger_of
from store import queries
from store.checkpoints.store import SPARE_BYTES, CheckpointStore
from store.home import Home, find, is_held


def doctor(option: Path | None) -> DoctorReport:
    """Run every check on the home."""
    home = find(option)
    checks: dict[str, Callable[[], str]] = {
        "configuration": lambda: f"{load_settings(home.config_file).training.objective} training",
        "behaviours": lambda: f"{len(home.behaviours())} behaviours",
        "model": lambda: _model(home),
        "token": lambda: _token(home),
        "ledger": lambda: _ledger(home),
        "checkpoints": lambda: _checkpoints(home),
        "room": lambda: _disk(home),
        "python": lambda: f"{sys.version.split()[0]}, torch {version('torch')}",
        "kernel": _kernel,
    }
    with suppress(ConfigError):  # which the first check reports
        settings = load_settings(home.config_file)
        if settings.model.url:
            checks |= doctor_vllm.checks(home, settings, lambda: _digest(home))
    return DoctorReport(
        home=str(home.path),
        service="up" if is_held(home) else "down",
        checks=[_run(name, check) for name, check in checks.items()],
    )


def _run(name: str, check: Callable[[], str]) -> Check:
    """Run one check; an error's message says what to do."""
    try:
        return Check(check=name, ok=True, found=check())
    except (NightschoolError, OSError) as error:
        return Check(check=name, ok=False, found=str(error))


def _model(home: Home) -> str:
    path = model_identity.model_directory(load_settings(home.config_file), home)
    if path is None:
        return "the one that vLLM serves"
    check_model_dir(path)
    return str(path)


def _digest(home: Home) -> str:
    with ledger_of(home) as connection:
        return queries.model_digest(connection)


def _kernel() -> str:
    if find_spec("agents.trainer.apollo._kernel") is not None:
        return "built"
    return "not built: torch does its work at half the speed; install again with a C compiler to build it"


def _token(home: Home) -> str:
    if home.token_file.stat().st_mode & 0o077:
        raise NightschoolError(f"others can read {home.token_file}: run chmod 600 on it")
    return "readable by this user alone"


def _ledger(home: Home) -> str:
    with ledger_of(home) as connection:
        return f"{queries.cursor(connection)} turns, active {queries.active(connection).id[:12]}"


def _checkpoints(home: Home) -> str:
    with ledger_of(home) as connection:
        active = queries.active(connection).id
    if faults := CheckpointStore(home.checkpoints).verify([active]):
        raise NightschoolError(faults[0].problem)
    return "the active one is whole"


def _disk(home: Home) -> str:
    free = shutil.disk_usage(home.path).free
    if free < 4 * SPARE_BYTES:
        raise NightschoolError(
            f"{free / 1e6:.0f} MB are free in {home.path}: free some disk space before a night"
        )
    return f"{free / 1e9:.1f} GB free"
