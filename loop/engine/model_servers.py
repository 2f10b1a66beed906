"""The two servers of the model: the embedded one, and a user's own vLLM.

The embedded one is a child process of ours, the vLLM is not. Either makes the shared weights that the trainer
writes; the process supervisor runs both in the same way. Invariant: after `ready` the weights are of the
model that the home was initialised with, and the server answers; `ended` returns once nobody uses these
weights any more. Of vLLM, this module knows only the address and the HTTP interface.
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
from agents.model.vllm.served_directory import ServedDirectory
from corpus.errors import GateRefused, IntegrityFault, ModelUnavailable, NightschoolError
from corpus.recipe import MODEL_DIR
from loop.config import Settings
from loop.engine import children
from loop.engine.model_identity import require_model, served_directory
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.ledger.db import Ledger

CHECK_S = 0.2
"""Between two checks of whether a vLLM runs."""
WITHOUT_PLUGIN = (
    "runs without the plugin (started before this home was configured, or NIGHTSCHOOL_HOME differs, "
    "or the package is not installed beside it): restart it"
)

log = structlog.get_logger()


class Server(Protocol):
    """A model server, as the process supervisor needs it."""

    @property
    def run_dir(self) -> Path:
        """Directory of the shared weights."""

    @property
    def model_dir(self) -> Path:
        """Hugging Face directory of the served model; a vLLM's is known once it has started."""

    @property
    def managed(self) -> bool:
        """Whether the supervisor starts it, and counts its death."""

    @property
    def fault(self) -> NightschoolError | None:
        """The fault that the user must mend before a start can end; None while there is none."""

    def has_weights(self) -> bool:
        """Return whether there are shared weights that should hold the active checkpoint."""

    async def start(self) -> None:
        """Start it, unless it runs; after this a trainer may be started beside it."""

    async def ready(self) -> None:
        """Return when the shared weights exist and the server answers."""

    async def ended(self) -> None:
        """Return when the server has gone."""

    async def stop(self) -> None:
        """Stop it if it is managed; remove what a dead one has left."""


@dataclass(kw_only=True)
class EmbeddedServer:
    """The embedded server."""

    run_dir: Path
    model_dir: Path
    checkpoints: Path
    token_file: Path
    readout: Path
    """The home's concept vectors."""
    logs: Path
    threads: int
    ledger: Ledger
    managed: bool = True
    fault: NightschoolError | None = None
    _process: Process | None = None
    _ready_pipe: int | None = None
    """The pipe on which it reports that it is ready; None once it has, and while it does not run."""

    def has_weights(self) -> bool:
        """See `Server`."""
        return self._process is not None

    async def start(self) -> None:
        """See `Server`."""
        if self._process is not None:
            return
        active = await self.ledger.read(queries.active)
        faults = await anyio.to_thread.run_sync(CheckpointStore(self.checkpoints).verify, [active.id])
        if faults:  # the server checks no number: damaged weights would be served, and trained
            raise IntegrityFault(f"the active checkpoint is damaged, nothing is served: {faults[0].problem}")
        self._ready_pipe, writer = os.pipe()
        try:
            self._process = await children.spawn(
                "agents.model.embedded.server",
                *("--run-dir", str(self.run_dir), "--model", str(self.model_dir)),
                *("--checkpoints", str(self.checkpoints), "--holds", active.id),
                *("--token-file", str(self.token_file), "--readout", str(self.readout)),
                *(
                    "--threads",
                    str(self.threads),
                    "--ready-fd",
                    str(writer),
                    "--parent-pid",
                    str(os.getpid()),
                ),
                logs=self.logs,
                pass_fds=(writer,),
            )
        finally:
            os.close(writer)

    async def ready(self) -> None:
        """See `Server`."""
        if self._process is not None and self._ready_pipe is not None:
            reports = partial(_reports_ready, self._ready_pipe)
            await children.wait_ready("model server", self._process, reports, self.logs)
            self._close_pipe()

    async def ended(self) -> None:
        """See `Server`."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """See `Server`."""
        self._close_pipe()
        if self._process is not None:
            await children.stop(self._process)
            self._process = None

    def _close_pipe(self) -> None:
        if self._ready_pipe is not None:
            os.close(self._ready_pipe)
            self._ready_pipe = None


async def _reports_ready(pipe: int) -> bool:
    """Return whether the child at the other end of the pipe reports that it is ready before it ends."""
    await anyio.wait_readable(pipe)
    return bool(os.read(pipe, 16))


@dataclass(kw_only=True)
class ExternalServer:
    """A user's own vLLM: waited for as long as it takes, never started and never stopped."""

    url: str
    place: ServedDirectory
    digest: str
    """Of the model that this home was initialised with."""
    model: ModelClient
    managed: bool = False
    fault: NightschoolError | None = None
    _served: tuple[Path, int] | None = None
    """The model and the inode of the weights that were shared at the last start."""

    def __post_init__(self) -> None:
        self.fault = ModelUnavailable(f"vLLM at {self.url} has not answered yet")

    @property
    def run_dir(self) -> Path:
        """See `Server`."""
        return self.place.directory

    @property
    def model_dir(self) -> Path:
        """See `Server`."""
        if self._served is None:
            raise ModelUnavailable(f"which model vLLM at {self.url} serves is not known yet: start it")
        return self._served[0]

    def has_weights(self) -> bool:
        """See `Server`."""
        try:
            self._find()
        except NightschoolError:
            return False
        return True

    async def start(self) -> None:
        """Return when a vLLM serves this home's model, shares its weights and accepts our key.

        The boundary at which any fault of the vLLM becomes something to wait for: see `fault` meanwhile.
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
            except NightschoolError as fault:
                if self.fault is None or str(self.fault) != str(fault):
                    log.warning("waiting for vLLM", reason=str(fault))
                self.fault = fault
                await anyio.sleep(CHECK_S)
            else:
                self.fault = None
                return

    async def ready(self) -> None:
        """See `Server`: it is ready when it has started."""

    async def ended(self) -> None:
        """Return when the server has left its place, or has made other weights there."""
        inode = None if self._served is None else self._served[1]
        while True:
            if not self.place.is_served() or self._inode() != inode:
                break
            await anyio.sleep(CHECK_S)
        self.fault = ModelUnavailable(f"vLLM at {self.url} has gone: start it again")

    async def stop(self) -> None:
        """See `Server`."""
        self.place.sweep()

    def _find(self) -> tuple[Path, int]:
        """Return the model and the inode of the shared weights; raise their fault if there is one."""
        if refused := self.place.refused:
            raise GateRefused(f"vLLM at {self.url} serves its model, but cannot share its weights: {refused}")
        model_dir, inode = served_directory(self.place), self._inode()
        if model_dir is None or inode is None:
            raise ModelUnavailable(f"vLLM at {self.url} shares no weights yet: try again in a minute")
        require_model(model_dir, self.digest, "have it serve that one", f"vLLM at {self.url}: ")
        return model_dir, inode

    def _inode(self) -> int | None:
        try:
            return os.stat(self.place.weights_file).st_ino
        except FileNotFoundError:
            return None

    async def _require_access(self) -> None:
        try:
            await self.model.served_model()
        except ModelUnavailable as refused:
            raise ModelUnavailable(f"vLLM at {self.url}: {refused}") from refused

    async def _absent(self) -> ModelUnavailable:
        """Return the reason why no server is at the place."""
        if await self.model.health():
            return ModelUnavailable(f"vLLM at {self.url} {WITHOUT_PLUGIN}")
        return ModelUnavailable(f"vLLM at {self.url} does not answer: start it there, or set model.url")


def client(home: Home, settings: Settings, run_dir: Path) -> AbstractAsyncContextManager[ModelClient]:
    """Open a client of the configured server."""
    if settings.model.url:
        return open_client(token=settings.model.api_key, base_url=settings.model.url)
    return open_client(token=home.token(), socket=run_dir / "model.sock")


def configured(
    home: Home, settings: Settings, run_dir: Path, ledger: Ledger, model: ModelClient, digest: str
) -> Server:
    """Return the configured server. digest: of the model that this home was initialised with."""
    if settings.model.path or not settings.model.url:
        require_model(Path(settings.model.path or MODEL_DIR), digest, "set model.path back")
    if settings.model.url:
        return ExternalServer(
            url=settings.model.url, place=ServedDirectory(home.served_dir), digest=digest, model=model
        )
    return EmbeddedServer(
        run_dir=run_dir,
        model_dir=Path(settings.model.path or MODEL_DIR),
        checkpoints=home.checkpoints,
        token_file=home.token_file,
        readout=home.path / "readout",
        logs=home.path / "logs",
        threads=settings.model.threads,
        ledger=ledger,
    )
