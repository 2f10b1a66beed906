"""`doctor`: check everything that a night needs, and tell the user how to fix what is wrong.

Invariant: the command changes nothing but the leftovers of dead processes, and loads no model, whether a
service runs or not. If a check fails, the others still run. The memory that an update needs is only
estimated here, from the shapes of the shared weights. The trainer checks the memory again before every
update, and that check decides.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import httpx

from agents.model.answer_limit import AnswerLimit
from agents.model.safety import check_model_dir
from agents.model.vllm.served_directory import ServedDirectory, ServedManifest
from agents.trainer import memory_estimate
from agents.trainer.handler import trainer_settings
from agents.trainer.memory_estimate import format_bytes, free_ram
from corpus.errors import ConfigError, GateRefused, ModelUnavailable, NightschoolError
from loop.config import OBSERVING, Settings, load_settings
from loop.engine import model_identity
from loop.engine.model_servers import WITHOUT_PLUGIN
from loop.operations.results.home import Check, DoctorReport
from loop.operations.status import ledger_of
from store import belonging, queries
from store.checkpoints.store import SPARE_BYTES, CheckpointStore
from store.files.private import remove_own
from store.home import Home, dead_directories, find, is_held, memory

Checks = dict[str, Callable[[], str]]
"""Checks by name. A check returns its finding as text, or raises an error that tells the user what to do."""

ANSWER_S = 5.0
"""Seconds that vLLM and nvidia-smi may take to answer."""
RESERVE = 0.04
"""Share of a GPU's memory that is reserved for the driver, kernels and fragmentation."""
SMALLER = "try training.micro_batch = 1, training.activation_checkpointing = true, or a lower training.rank"


def doctor(option: Path | None) -> DoctorReport:
    """Run every check on the home and return their findings.

    Args:
        option: The home that the user names; None for the default one.
    """
    home = find(option)
    checks = _home_checks(home)
    with suppress(ConfigError):  # the check of the configuration reports this error
        settings = load_settings(home.config_file)
        if settings.model.url:
            checks |= _vllm_checks(home, settings)
    return DoctorReport(
        home=str(home.path),
        service="up" if is_held(home) else "down",
        checks=[_run(name, check) for name, check in checks.items()],
    )


def _run(name: str, check: Callable[[], str]) -> Check:
    """Run one check and return the result; if the check fails, the error's message is the finding."""
    try:
        return Check(check=name, ok=True, found=check())
    except (NightschoolError, OSError) as error:
        return Check(check=name, ok=False, found=str(error))


# ---------------------------------------------------------------- the home


def _home_checks(home: Home) -> Checks:
    """Return the checks that every home gets."""
    return {
        "configuration": lambda: f"{load_settings(home.config_file).training.objective} training",
        "behaviours": lambda: _behaviours(home),
        "model": lambda: _model(home),
        "token": lambda: _token(home),
        "run directory": lambda: _run_directory(home),
        "ledger": lambda: _ledger(home),
        "checkpoints": lambda: _checkpoints(home),
        "belonging": lambda: _belonging(home),
        "room": lambda: _disk(home),
        "python": lambda: f"{sys.version.split()[0]}, torch {version('torch')}",
        "kernel": _kernel,
    }


def _behaviours(home: Home) -> str:
    with ledger_of(home) as connection:
        return f"{len(model_identity.behaviours_of(home, queries.model_digest(connection)))} behaviours"


def _model(home: Home) -> str:
    path = model_identity.model_directory(load_settings(home.config_file), home)
    if path is None:
        return "the one that vLLM serves"
    check_model_dir(path)
    return str(path)


def _token(home: Home) -> str:
    for file in (home.token_file, home.chat_token_file):
        if file.exists() and file.stat().st_mode & 0o077:
            raise NightschoolError(f"others can read {file}: run `chmod 600` on it")
    return "readable by this user only"


def _run_directory(home: Home) -> str:
    """Check that nobody else has taken the names of the home's directories in memory; remove dead ones."""
    stale = dead_directories(home)
    for path in stale:
        remove_own(path)
    swept = f"; {len(stale)} of dead processes removed" if stale else ""
    if not home.run_dir.is_relative_to(memory()):
        raise NightschoolError(
            f"somebody else has taken this home's name in {memory()}: sockets and weights are in "
            f"{home.run_dir} instead, which is slower. Have that directory removed"
        )
    return f"{home.run_dir}{swept}"


def _ledger(home: Home) -> str:
    with ledger_of(home) as connection:
        return f"{queries.cursor(connection)} turns, active checkpoint {queries.active(connection).id[:12]}"


def _checkpoints(home: Home) -> str:
    with ledger_of(home) as connection:
        active = queries.active(connection).id
    if faults := CheckpointStore(home.checkpoints).verify([active]):
        raise NightschoolError(f"the active checkpoint is damaged: {faults[0].problem}")
    return "the active checkpoint is intact"


def _belonging(home: Home) -> str:
    """Check that the ledger and the checkpoint files are of the same home, and of the same age."""
    with ledger_of(home) as connection:
        problem = belonging.problem(connection, CheckpointStore(home.checkpoints))
    if problem is not None:
        raise NightschoolError(problem.text)
    return "ledger and checkpoint files belong together"


def _disk(home: Home) -> str:
    free = shutil.disk_usage(home.path).free
    if free < 4 * SPARE_BYTES:
        raise NightschoolError(f"{free / 1e6:.0f} MB are free in {home.path}: free some space before a night")
    return f"{free / 1e9:.1f} GB free on the disk"


def _kernel() -> str:
    if find_spec("agents.trainer.apollo._kernel") is not None:
        return "built"
    return "not built: torch does its work at half the speed; install again with a C compiler to build it"


# ---------------------------------------------------------------- the user's own vLLM


def _vllm_checks(home: Home, settings: Settings) -> Checks:
    """Return the further checks for a home that uses a vLLM."""
    served = ServedDirectory(home.served_dir)
    return {
        "vllm": lambda: _server(settings),
        "plugin": lambda: _plugin(settings, served),
        "served model": lambda: _served_model(home, settings, served),
        "training": lambda: "on" if settings.trains else OBSERVING,
        "memory": lambda: _memory(settings, served),
    }


def _server(settings: Settings) -> str:
    """Check that vLLM answers and accepts the configured key."""
    url, key = settings.model.url, settings.model.api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=ANSWER_S, trust_env=False) as http:
        try:
            models, release = http.get("/v1/models"), http.get("/version")
        except httpx.TransportError as error:
            raise ModelUnavailable(
                f"vLLM at {url} does not answer ({type(error).__name__}): start it there, or set model.url"
            ) from error
    if models.status_code == 401:
        raise ModelUnavailable(
            f"vLLM at {url} refuses the key: set model.api_key to the one that it was started with"
        )
    if not models.is_success:
        raise ModelUnavailable(f"vLLM at {url} answers {models.status_code} to /v1/models: is it a vLLM?")
    number = release.json().get("version", "?") if release.is_success else "?"
    return f"version {number} at {url}" + (", with a key" if key else "")


def _plugin(settings: Settings, served: ServedDirectory) -> str:
    """Check that vLLM shares its weights."""
    if not served.is_served():
        raise ModelUnavailable(f"vLLM at {settings.model.url} is not up, or {WITHOUT_PLUGIN}")
    if refused := served.refused:
        raise GateRefused(
            f"vLLM at {settings.model.url} serves its model, but cannot share its weights: {refused}"
        )
    manifest = _manifest(settings, served)
    return f"{format_bytes(manifest.nbytes)} of weights shared" + (", on the GPU" if manifest.on_gpu else "")


def _served_model(home: Home, settings: Settings, served: ServedDirectory) -> str:
    """Check that vLLM serves the home's model."""
    with ledger_of(home) as connection:
        wanted = queries.model_digest(connection)
    model_dir = _manifest(settings, served).model
    who = f"vLLM at {settings.model.url}: "
    model_identity.require_model(model_dir, wanted, "have it serve that model", who)
    return str(model_dir)


def _manifest(settings: Settings, served: ServedDirectory) -> ServedManifest:
    manifest = served.manifest()
    if manifest is None:
        raise ModelUnavailable(f"vLLM at {settings.model.url} shares no weights: see the other checks")
    return manifest


def _memory(settings: Settings, served: ServedDirectory) -> str:
    """Check that an update fits in the memory that vLLM leaves free."""
    manifest = _manifest(settings, served)
    config = json.loads((manifest.model / "config.json").read_text())
    needs = memory_estimate.estimate_from_shapes(
        manifest.entries,
        config.get("text_config", config),
        trainer_settings(settings.training, shipped=False, pairs=0),
        answer_tokens=AnswerLimit(tokens=settings.pairs.max_tokens, shipped=False).most,
        copied=manifest.on_gpu,
    )
    need = f"an update needs about {format_bytes(needs.total)} beside vLLM's weights ({needs})"
    return _on_gpu(need, needs.total) if manifest.on_gpu else _in_ram(need, needs.total, free_ram())


def _in_ram(need: str, nbytes: float, free: int) -> str:
    finding = f"{need}; {format_bytes(free)} are free in RAM"
    if nbytes > free:
        raise GateRefused(f"{finding}: give vLLM's cache less (--kv-cache-memory-bytes), or {SMALLER}")
    return finding


def _on_gpu(need: str, nbytes: float) -> str:
    gpus = _gpu_memory()
    if not gpus:
        return f"{need}, on the GPU; nvidia-smi does not say how much is free there"
    free, total = max(gpus)
    share = 1 - nbytes / total - RESERVE
    if share <= 0:
        raise GateRefused(f"{need}; the GPU has {format_bytes(total)} in all: {SMALLER}")
    finding = f"{need}; {format_bytes(free)} are free of the GPU's {format_bytes(total)}"
    advice = f"start vLLM with --gpu-memory-utilization {share:.2f} or less"
    if nbytes > free:
        raise GateRefused(f"{finding}: {advice}, or {SMALLER}")
    return f"{finding} ({advice})"


def _gpu_memory() -> list[tuple[int, int]]:
    """Return the free and the total bytes of each GPU; [] if nvidia-smi is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    ran = subprocess.run(query, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    lines = ran.stdout.splitlines() if ran.returncode == 0 else []
    figures = [
        [int(mebibytes) * 2**20 for mebibytes in line.split(",")]
        for line in lines
        if line.replace(",", "").strip()
    ]
    return [(free, total) for free, total in figures]
