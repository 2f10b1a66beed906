"""A real vLLM on a CPU, started as a user would: `make test-vllm`. Skipped where vLLM is not installed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from corpus.recipe import MODEL_DIR
from store.home import Home

if not any(distributions(name="vllm")):  # not find_spec: it takes this folder for the package
    collect_ignore_glob = ["test_*.py"]

START_S = 180.0
"""Longest wait for the first answer: 25 s alone on 2 cores."""
STOP_S = 120.0


@dataclass(kw_only=True)
class Vllm:
    """One running `vllm serve`."""

    process: "subprocess.Popen[bytes]"
    url: str
    home: Home
    log: Path

    def http(self, **more: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **more)  # type: ignore[arg-type]

    def said(self) -> str:
        """Return the output of the process so far."""
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it as a user would, or kill all of it with SIGKILL; return when every process has ended."""
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        self.gone()

    def gone(self) -> None:
        """Wait until every process of it has ended."""
        self.process.wait(STOP_S)
        with_group = monotonic()
        while monotonic() - with_group < STOP_S:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return
            sleep(0.1)
        raise AssertionError(f"processes of vLLM are left: {self.said()[-2000:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def point_at(home: Home, url: str, **model: object) -> None:
    """Write the home's configuration: `[model] url = ...`, and more of that table."""
    values = {"url": url, **model}
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
        for name, value in values.items()
    ]
    home.config_file.write_text("[model]\n" + "\n".join(lines).replace("'", '"') + "\n")


def new_home(path: Path) -> Home:
    """Return a home as `nightschool init` makes it."""
    command = [str(Path(sys.executable).with_name("nightschool")), "--home", str(path), "init"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return Home(path)


@contextmanager
def serving(
    home: Home,
    log: Path,
    *,
    model: Path = MODEL_DIR,
    port: int = 0,
    arguments: tuple[str, ...] = (),
    **env: str,
) -> Iterator[Vllm]:
    """Run `vllm serve` of this model with this home until the block ends."""
    port = port or free_port()
    command = [str(Path(sys.executable).parent / "vllm"), "serve", str(model), "--port", str(port)]
    if "--host" not in arguments:
        command += ["--host", "127.0.0.1"]
    if "--dtype" not in arguments:
        command += ["--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "16"]
    command += ["--kv-cache-memory-bytes", "67108864", *arguments]
    environment = {
        **os.environ,
        "NIGHTSCHOOL_HOME": str(home.path),
        "OMP_NUM_THREADS": "1",  # more threads than cores are ruinous
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **env,
    }
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    vllm = Vllm(process=process, url=f"http://127.0.0.1:{port}", home=home, log=log)
    try:
        _wait(vllm)
        yield vllm
    finally:
        if process.poll() is None:
            vllm.stop()


def _wait(vllm: Vllm) -> None:
    """Wait until it answers."""
    began = monotonic()
    with vllm.http() as http:
        while monotonic() - began < START_S:
            assert vllm.process.poll() is None, f"vLLM ended while it was starting: {vllm.said()[-3000:]}"
            try:
                if http.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                sleep(0.2)
    raise AssertionError(f"vLLM did not start: {vllm.said()[-3000:]}")


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """One server of the embedded model for all tests that leave it as it was."""
    place = tmp_path_factory.mktemp("vllm")
    home, port = new_home(place / "home"), free_port()
    point_at(home, f"http://127.0.0.1:{port}")
    with serving(home, place / "vllm.log", port=port) as running:
        yield running
