"""`doctor` for a user's own vLLM: is it there, does it take our key, does it share this home's model, is there room.

Invariant: looks only; asks vLLM and the place of its mapping, imports no torch. The room is an estimate from the
manifest's shapes: the trainer measures before every update, and has the last word.
"""

import json
import shutil
import subprocess
from collections.abc import Callable

import httpx

from agents.model.vllm.served_directory import ServedDirectory, ServedManifest
from agents.trainer import memory_estimate
from agents.trainer.memory_estimate import format_bytes, free_ram
from corpus.errors import GateRefused, ModelUnavailable
from loop.config import OBSERVING, Settings
from loop.engine import model_identity
from loop.engine.model_servers import WITHOUT_PLUGIN
from store.home import Home

ANSWER_S = 5.0
"""How long vLLM may take to answer."""
SPARE = 0.04
"""Share of a GPU's memory that the driver, kernels and fragments take."""


def checks(home: Home, settings: Settings, digest: Callable[[], str]) -> dict[str, Callable[[], str]]:
    """The checks by name; digest: of the model that this home was begun with."""
    place = ServedDirectory(home.served_dir)
    return {
        "vllm": lambda: _server(settings),
        "plugin": lambda: _plugin(settings, place),
        "served model": lambda: _model(settings, place, digest()),
        "training": lambda: "on" if settings.trains else OBSERVING,
        "memory": lambda: _memory(settings, place),
    }


def _server(settings: Settings) -> str:
    """Whether it answers, and takes our key."""
    url, key = settings.model.url, settings.model.api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=ANSWER_S, trust_env=False) as http:
        try:
            answer, version = http.get("/v1/models"), http.get("/version")
        except httpx.TransportError as error:
            raise ModelUnavailable(
                f"vLLM at {url} does not answer ({type(error).__name__}): start it there, or set model.url"
            ) from error
    if answer.status_code == 401:
        raise ModelUnavailable(
            f"vLLM at {url} refuses the key: set model.api_key to the one that it was started with"
        )
    if not answer.is_success:
        raise ModelUnavailable(f"vLLM at {url} answers {answer.status_code} to /v1/models: is it a vLLM?")
    told = version.json().get("version", "?") if version.is_success else "?"
    return f"version {told} at {url}" + (", with a key" if key else "")


def _plugin(settings: Settings, place: ServedDirectory) -> str:
    """Whether it shares its weights."""
    if not place.is_served():
        raise ModelUnavailable(f"vLLM at {settings.model.url} is not up, or {WITHOUT_PLUGIN}")
    if refused := place.refused:
        raise GateRefused(f"vLLM at {settings.model.url} serves on, untrained: {refused}")
    manifest = _manifest(settings, place)
    return f"{format_bytes(manifest.nbytes)} of weights shared" + (", on the GPU" if manifest.on_gpu else "")


def _model(settings: Settings, place: ServedDirectory, digest: str) -> str:
    found = _manifest(settings, place).model
    model_identity.require_model(found, digest, "have it serve that one", f"vLLM at {settings.model.url}: ")
    return str(found)


def _manifest(settings: Settings, place: ServedDirectory) -> ServedManifest:
    manifest = place.manifest()
    if manifest is None:
        raise ModelUnavailable(f"vLLM at {settings.model.url} shares no weights: see the other checks")
    return manifest


def _memory(settings: Settings, place: ServedDirectory) -> str:
    """Where the trainer's memory will come from, and whether it fits."""
    manifest = _manifest(settings, place)
    config = json.loads((manifest.model / "config.json").read_text())
    needs = memory_estimate.estimate_from_shapes(
        manifest.entries,
        config.get("text_config", config),
        settings.training,
        answer_tokens=settings.pairs.max_tokens,
        copied=manifest.on_gpu,
    )
    told = f"beside vLLM's weights an update takes some {format_bytes(needs.total)} ({needs})"
    return _on_gpu(told, needs.total) if manifest.on_gpu else _in_ram(told, needs.total, free_ram())


def _in_ram(told: str, needs: float, free: int) -> str:
    """It comes from the machine's memory."""
    if needs > free:
        raise GateRefused(
            f"{told}; of RAM {format_bytes(free)} are free. Give vLLM's cache less (--kv-cache-memory-bytes), {LESS}"
        )
    return f"{told}; of RAM {format_bytes(free)} are free"


def _on_gpu(told: str, needs: float) -> str:
    """It comes from the GPU, of which vLLM takes most if it is let."""
    gpus = gpu_memory()
    if not gpus:
        return f"{told} on the GPU; nvidia-smi does not say how much is free there"
    free, total = max(gpus)
    share = 1 - needs / total - SPARE
    if share <= 0:
        raise GateRefused(f"{told}; the GPU has {format_bytes(total)} in all: {LESS}")
    advice = f"start vLLM with --gpu-memory-utilization {share:.2f} or less"
    if needs > free:
        raise GateRefused(f"{told}; of the GPU {format_bytes(free)} are free: {advice}, or {LESS}")
    return f"{told}; of the GPU {format_bytes(free)} of {format_bytes(total)} are free ({advice})"


LESS = "try training.micro_batch = 1, training.activation_checkpointing = true, or a lower training.rank"


def gpu_memory() -> list[tuple[int, int]]:
    """Free and total bytes of each GPU, by nvidia-smi; [] where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = [program, "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER_S)
    lines = said.stdout.splitlines() if said.returncode == 0 else []
    figures = [
        [int(figure) * 2**20 for figure in line.split(",")] for line in lines if line.replace(",", "").strip()
    ]
    return [(free, total) for free, total in figures]
