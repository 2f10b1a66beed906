"""`status` and `doctor`: where the home stands, whether a service runs or not.

Invariant: reads only, and never waits for a service: what it does not answer at once comes from the ledger.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection

from agents.model.safety import check_model_dir
from corpus.aliases import Json
from corpus.errors import ConfigError, NightschoolError
from corpus.json_edge import to_json
from loop.config import load_settings
from loop.engine import model_identity
from loop.operations import doctor_vllm
from store import queries
from store.checkpoints.store import SPARE_BYTES, CheckpointStore
from store.home import Home, find, is_held
from store.ledger.db import Ledger, database_url
from store.nights import report

ANSWER_S = 2.0
"""How long a service may take to answer; then the ledger is asked."""


@contextmanager
def ledger_of(home: Home) -> Iterator[Connection]:
    """One look at a home's ledger, whether a service runs or not."""
    ledger = Ledger(database_url(home.path, load_settings(home.config_file).database))
    try:
        with ledger.reading() as connection:
            yield connection
    finally:
        ledger.close()


def status(option: Path | None) -> Json:
    """Where the home stands."""
    home = find(option)
    told = _from_service(home)
    if told is not None:
        return {"service": "up", **told}
    with ledger_of(home) as connection:
        told = to_json(report.status(connection))
        paused = queries.is_paused(connection)
    reason = (
        "paused: `nightschool resume` to go on" if paused else "no service runs: `nightschool run` or `night`"
    )
    return {"service": "busy" if is_held(home) else "down", **told, "next_update_reason": reason}


def _from_service(home: Home) -> Json | None:
    """The service's own answer, if one answers."""
    if not home.control_socket.exists():
        return None
    transport = httpx.HTTPTransport(uds=str(home.control_socket))
    headers = {"Authorization": f"Bearer {home.token()}"}
    with httpx.Client(transport=transport, headers=headers, timeout=ANSWER_S, trust_env=False) as client:
        try:
            answer = client.get("http://nightschool/status")
            return dict(answer.json()) if answer.is_success else None
        except (httpx.TransportError, ValueError):
            return None


def doctor(option: Path | None) -> Json:
    """Checks of everything that a night needs, each with what to do."""
    home = find(option)
    checks = [
        _check("configuration", lambda: f"{load_settings(home.config_file).training.objective} training"),
        _check("behaviours", lambda: f"{len(home.behaviours())} behaviours"),
        _check("model", lambda: _model(home)),
        _check("token", lambda: _token(home)),
        _check("ledger", lambda: _ledger(home)),
        _check("checkpoints", lambda: _checkpoints(home)),
        _check("room", lambda: _room(home)),
        _check("python", lambda: f"{sys.version.split()[0]}, torch {_torch_version()}"),
        _check("kernel", _kernel),
    ]
    with suppress(ConfigError):  # which the first check has told of
        settings = load_settings(home.config_file)
        if settings.model.url:
            looks = doctor_vllm.checks(home, settings, lambda: _digest(home))
            checks += [_check(name, look) for name, look in looks.items()]
    return {"home": str(home.path), "service": "up" if is_held(home) else "down", "checks": checks}


def _check(name: str, look: Any) -> Json:
    """One check: fine with what was found, or not, with the message that says what to do."""
    try:
        return {"check": name, "ok": True, "found": look()}
    except (NightschoolError, OSError) as error:
        return {"check": name, "ok": False, "found": str(error)}


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
    built = find_spec("agents.trainer.apollo._kernel") is not None
    return (
        "built"
        if built
        else "not built: torch does its work at half the speed; install with a C compiler for it"
    )


def _token(home: Home) -> str:
    mode = home.token_file.stat().st_mode & 0o077
    if mode:
        raise NightschoolError(f"others can read {home.token_file}: chmod 600 it")
    return "readable by this user alone"


def _ledger(home: Home) -> str:
    with ledger_of(home) as connection:
        return f"{queries.cursor(connection)} turns, active {queries.active(connection).id[:12]}"


def _checkpoints(home: Home) -> str:
    with ledger_of(home) as connection:
        active = queries.active(connection).id
    faults = CheckpointStore(home.checkpoints).verify([active])
    if faults:
        raise NightschoolError(faults[0].problem)
    return "the active one is whole"


def _room(home: Home) -> str:
    free = shutil.disk_usage(home.path).free
    if free < 4 * SPARE_BYTES:
        raise NightschoolError(f"{free / 1e6:.0f} MB are free in {home.path}: free some room before a night")
    return f"{free / 1e9:.1f} GB free"


def _torch_version() -> str:
    from importlib.metadata import version

    return version("torch")
