"""The two kinds of model server: the embedded server, and a user's own vLLM.

The embedded server is a child process of the service; the vLLM is not. Either server creates the shared
weights that the trainer writes to. The process supervisor uses both through the same protocol, `Server`.

Invariant: when `ready` has returned, the server answers, and the shared weights belong to the model that the
home was initialised with. `ended` returns when no server uses these weights any more. Of vLLM, this module
knows only the address, the HTTP interface and the folder of the shared weights.
"""

import os
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
import structlog
from anyio.abc import Process

from agents.model.client import ModelClient, open_client
from agents.model.threads import threads_for
from agents.model.vllm.served_directory import ServedDirectory
from corpus.errors import GateRefused, IntegrityFault, ModelUnavailable, NightschoolError
from corpus.recipe import MODEL_DIR
from loop.config import Settings
from loop.engine import children, vllm_watch
from loop.engine.model_identity import require_model, served_directory
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.ledger.db import Ledger

CHECK_S = 0.2
"""Seconds between two checks of whether a vLLM runs."""
WITHOUT_PLUGIN = (
    "runs without the plugin (started before this home was configured, or NIGHTSCHOOL_HOME differs, "
    "or the package is not installed beside it): restart it"
)
STUCK = "answers its health check and no request: look at its log, and restart it"

log = structlog.get_logger()


class Server(Protocol):
    """The interface through which the process supervisor uses a model server."""

    @property
    def run_dir(self) -> Path:
        """Directory of the shared weights."""

    @property
    def model_dir(self) -> Path:
        """Hugging Face directory of the served model; that of a vLLM is known only after `start`."""

    @property
    def managed(self) -> bool:
        """Whether the supervisor starts and stops the server, and counts its deaths."""

    @property
    def fault(self) -> NightschoolError | None:
        """The fault that the user must repair before `start` can return; None while there is no fault."""

    def has_weights(self) -> bool:
        """Return whether there are shared weights that should hold the active checkpoint."""

    async def start(self) -> None:
        """Start the server unless it runs; afterwards a trainer may be started beside it."""

    async def ready(self) -> None:
        """Wait until the shared weights exist and the server answers."""

    async def ended(self) -> None:
        """Wait until the server has ended."""

    async def stop(self) -> None:
        """Stop the server if it is managed; remove the files that a dead server has left."""


@dataclass(kw_only=True)
class EmbeddedServer:
    """The embedded model server, a child process of the service."""

    run_dir: Path
    model_dir: Path
    checkpoints: Path
    token_file: Path
    readout: Path
    """Folder of the home's concept vectors."""
    logs: Path
    threads: int
    """Threads inside one operation."""
    dtype: str
    """Type of the products: `model.dtype`."""
    ledger: Ledger
    model: ModelClient
    managed: bool = True
    fault: NightschoolError | None = None
    _process: Process | None = None
    _ready_pipe: int | None = None
    """The pipe on which the starting child reports that it is ready; None at all other times."""

    def has_weights(self) -> bool:
        """Return whether the child process exists, so that there are or will be shared weights."""
        return self._process is not None

    async def start(self) -> None:
        """Start the child process unless it exists; raise an error if the active checkpoint is damaged."""
        if self._process is not None:
            return
        active = await self.ledger.read(queries.active)
        faults = await anyio.to_thread.run_sync(CheckpointStore(self.checkpoints).verify, [active.id])
        if faults:  # the server itself does not verify weights: damaged ones would be served and trained
            raise IntegrityFault(f"the active checkpoint is damaged, nothing is served: {faults[0].problem}")
        self._ready_pipe, writer = os.pipe()
        try:
            self._process = await children.spawn(
                "agents.model.embedded.server",
                *("--run-dir", str(self.run_dir), "--model", str(self.model_dir)),
                *("--checkpoints", str(self.checkpoints), "--holds", active.id),
                *("--token-file", str(self.token_file), "--readout", str(self.readout)),
                *("--threads", str(self.threads), "--dtype", self.dtype),
                *("--ready-fd", str(writer), "--parent-pid", str(os.getpid())),
                logs=self.logs,
                pass_fds=(writer,),
            )
        finally:
            os.close(writer)

    async def ready(self) -> None:
        """Wait until the child reports that the shared weights exist and it answers."""
        if self._process is not None and self._ready_pipe is not None:
            reports = partial(_reports_ready, self._ready_pipe)
            await children.wait_ready("model server", self._process, reports, self.logs)
            self._close_pipe()

    async def ended(self) -> None:
        """Wait until the child process has ended; kill it if it hangs."""
        if self._process is not None:
            await children.ended_or_hung("model server", self._process, self.model.health)

    async def stop(self) -> None:
        """Stop the child process if it exists."""
        self._close_pipe()
        if self._process is not None:
            await children.stop(self._process)
            self._process = None

    def _close_pipe(self) -> None:
        if self._ready_pipe is not None:
            os.close(self._ready_pipe)
            self._ready_pipe = None


async def _reports_ready(pipe: int) -> bool:
    """Wait for the child's report on the pipe; return False if the child ended without one."""
    await anyio.wait_readable(pipe)
    return bool(os.read(pipe, 16))


@dataclass(kw_only=True)
class ExternalServer:
    """A user's own vLLM. The service never starts or stops it, and waits for it without a time limit."""

    url: str
    place: ServedDirectory
    """The folder in which the vLLM shares its weights."""
    digest: str
    """Digest of the model that the home was initialised with."""
    model: ModelClient
    managed: bool = False
    fault: NightschoolError | None = None
    _served: tuple[Path, int] | None = None
    """The model's directory and the inode of the shared weights, as of the last start."""

    def __post_init__(self) -> None:
        self.fault = ModelUnavailable(f"vLLM at {self.url} has not answered yet")

    @property
    def run_dir(self) -> Path:
        """Directory in which the vLLM shares its weights."""
        return self.place.directory

    @property
    def model_dir(self) -> Path:
        """Hugging Face directory of the served model; raise `ModelUnavailable` before the first `start`."""
        if self._served is None:
            raise ModelUnavailable(f"which model vLLM at {self.url} serves is not known yet: start it")
        return self._served[0]

    def has_weights(self) -> bool:
        """Return whether a vLLM shares the weights of this home's model now."""
        try:
            self._find()
        except NightschoolError:
            return False
        return True

    async def start(self) -> None:
        """Wait until a vLLM serves this home's model, shares its weights and accepts the configured key.

        This is the boundary for a vLLM's faults: a fault is not raised, but logged and kept in `fault` until
        it is repaired.
        """
        while True:
            try:
                if not self.place.is_served():
                    self.place.sweep()
                    raise await self._absent()
                self._served = self._find()
                if not await self.model.health():
                    raise ModelUnavailable(
                        f"vLLM at {self.url} is still loading the model: try again in a minute"
                    )
                await self._require_access()
                if not await vllm_watch.answers(self.model):
                    raise ModelUnavailable(f"vLLM at {self.url} {STUCK}")
            except NightschoolError as fault:
                if self.fault is None or str(self.fault) != str(fault):
                    log.warning("waiting for vLLM", reason=str(fault))
                self.fault = fault
                await anyio.sleep(CHECK_S)
            else:
                self.fault = None
                return

    async def ready(self) -> None:
        """Return at once: when `start` has returned, the vLLM is ready."""

    async def ended(self) -> None:
        """Wait until the vLLM has ended, has replaced its shared weights by others, or answers no more."""
        stuck: list[str] = []
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await vllm_watch.wait_stuck(self.model)
                stuck.append(STUCK)
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch, name="watch vLLM")
            await self._gone()
            tasks.cancel_scope.cancel()
        what = stuck[0] if stuck else "has gone: start it again"
        self.fault = ModelUnavailable(f"vLLM at {self.url} {what}")

    async def _gone(self) -> None:
        """Wait until the vLLM has ended, or has replaced its shared weights by others."""
        inode = None if self._served is None else self._served[1]
        while True:
            if not self.place.is_served() or self._inode() != inode:
                return
            await anyio.sleep(CHECK_S)

    async def stop(self) -> None:
        """Remove the files that a dead vLLM has left; a running vLLM goes on."""
        self.place.sweep()

    def _find(self) -> tuple[Path, int]:
        """Return the model's directory and the inode of the shared weights.

        Raises:
            NightschoolError: The vLLM shares no weights, cannot share them, or serves another model.
        """
        if refused := self.place.refused:
            raise GateRefused(f"vLLM at {self.url} serves its model, but cannot share its weights: {refused}")
        model_dir, inode = served_directory(self.place), self._inode()
        if model_dir is None or inode is None:
            raise ModelUnavailable(f"vLLM at {self.url} shares no weights yet: try again in a minute")
        require_model(model_dir, self.digest, "have it serve that one", f"vLLM at {self.url}: ")
        return model_dir, inode

    def _inode(self) -> int | None:
        """Return the inode of the file of shared weights; None if there is no such file."""
        try:
            return os.stat(self.place.weights_file).st_ino
        except FileNotFoundError:
            return None

    async def _require_access(self) -> None:
        """Raise `ModelUnavailable` unless the vLLM accepts the configured key."""
        try:
            await self.model.served_model()
        except ModelUnavailable as refused:
            raise ModelUnavailable(f"vLLM at {self.url}: {refused}") from refused

    async def _absent(self) -> ModelUnavailable:
        """Return the error that tells why no vLLM shares weights: it does not answer, or has no plugin."""
        if await self.model.health():
            return ModelUnavailable(f"vLLM at {self.url} {WITHOUT_PLUGIN}")
        return ModelUnavailable(f"vLLM at {self.url} does not answer: start it there, or set model.url")


def client(home: Home, settings: Settings, run_dir: Path) -> AbstractAsyncContextManager[ModelClient]:
    """Return a context manager that opens a client of the configured model server."""
    if settings.model.url:
        return open_client(token=settings.model.api_key, base_url=settings.model.url)
    return open_client(token=home.token(), socket=run_dir / "model.sock")


def configured(
    home: Home, settings: Settings, run_dir: Path, ledger: Ledger, model: ModelClient, digest: str
) -> Server:
    """Return the configured model server, which is not started yet.

    Args:
        home: The home.
        settings: Its effective configuration.
        run_dir: Folder for the sockets and shared weights of this run.
        ledger: The home's ledger.
        model: A client of the configured server.
        digest: Digest of the model that the home was initialised with.
    """
    if settings.model.path or not settings.model.url:
        require_model(Path(settings.model.path or MODEL_DIR), digest, "set model.path back")
    if settings.model.url:
        return ExternalServer(
            url=settings.model.url, place=ServedDirectory(home.served_dir), digest=digest, model=model
        )
    return EmbeddedServer(
        run_dir=run_dir,
        model_dir=Path(settings.model.path or MODEL_DIR).absolute(),
        checkpoints=home.checkpoints,
        token_file=home.token_file,
        readout=home.path / "readout",
        logs=home.path / "logs",
        threads=threads_for(settings.model.threads, Path(settings.model.path or MODEL_DIR)),
        dtype=settings.model.dtype,
        ledger=ledger,
        model=model,
    )
