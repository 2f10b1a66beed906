"""The two servers of the model: the embedded one, a child of ours, and a user's own vLLM, which is nobody's child.

Either makes the mapping that the trainer writes; the crew starts, watches and stops both in the same way.
Invariant: after `ready` the mapping is that of the model that this home was begun with, and the server answers;
`ended` returns once that mapping is nobody's any more. Of vLLM only its place and its HTTP are known here.
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
from loop.engine import children, model_identity
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.ledger.db import Ledger

LOOK_S = 0.2
"""Between two looks at whether a vLLM is there."""

log = structlog.get_logger()


class Server(Protocol):
    """What the crew needs of a server."""

    @property
    def mapping(self) -> Path:
        """Directory of the mapping."""

    @property
    def model_dir(self) -> Path:
        """Hugging Face directory of what is served; of a vLLM, known once it has started."""

    @property
    def ours(self) -> bool:
        """Whether we start it, and its death is ours to account for."""

    @property
    def fault(self) -> NightschoolError | None:
        """What a start waits for the user to mend; None while it waits for nobody."""

    def is_there(self) -> bool:
        """Whether there is a mapping that should hold the active checkpoint."""

    async def start(self) -> None:
        """Begin, unless it runs: from now on a trainer may be started beside it."""

    async def ready(self) -> None:
        """Return when there is a mapping and the server answers."""

    async def ended(self) -> None:
        """Return when the server has gone."""

    async def stop(self) -> None:
        """End it if it is ours; take away what a dead one has left."""


@dataclass(kw_only=True)
class Embedded:
    """The embedded server."""

    mapping: Path
    model_dir: Path
    checkpoints: Path
    token_file: Path
    readout: Path
    """The home's concept vectors."""
    logs: Path
    threads: int
    ledger: Ledger
    ours: bool = True
    fault: NightschoolError | None = None
    _process: Process | None = None
    _says: int | None = None
    """The pipe on which it says that it is ready; None when it has, or does not run."""

    def is_there(self) -> bool:
        """See `Server`."""
        return self._process is not None

    async def start(self) -> None:
        """See `Server`."""
        if self._process is not None:
            return
        active = await self.ledger.read(queries.active)
        faults = await anyio.to_thread.run_sync(CheckpointStore(self.checkpoints).verify, [active.id])
        if faults:  # the server reads the numbers as they are: damaged ones would be served, and learnt from
            raise IntegrityFault(f"the active checkpoint is damaged, nothing is served: {faults[0].problem}")
        self._says, told = os.pipe()
        try:
            self._process = await children.spawn(
                "agents.model.embedded.server",
                *("--run-dir", str(self.mapping), "--model", str(self.model_dir)),
                *("--checkpoints", str(self.checkpoints), "--holds", active.id),
                *("--token-file", str(self.token_file), "--readout", str(self.readout)),
                *("--threads", str(self.threads), "--ready-fd", str(told), "--parent-pid", str(os.getpid())),
                logs=self.logs,
                pass_fds=(told,),
            )
        finally:
            os.close(told)

    async def ready(self) -> None:
        """See `Server`."""
        if self._process is not None and self._says is not None:
            await children.until("model server", self._process, partial(_says_ready, self._says), self.logs)
            self._hush()

    async def ended(self) -> None:
        """See `Server`."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """See `Server`."""
        self._hush()
        if self._process is not None:
            await children.stop(self._process)
            self._process = None

    def _hush(self) -> None:
        if self._says is not None:
            os.close(self._says)
            self._says = None


async def _says_ready(pipe: int) -> bool:
    """Whether the child at the other end says that it is ready; False when it ends without a word."""
    await anyio.wait_readable(pipe)
    return bool(os.read(pipe, 16))


@dataclass(kw_only=True)
class ExternalServer:
    """A user's own vLLM: waited for as long as it takes, never started and never stopped."""

    url: str
    place: ServedDirectory
    digest: str
    """Of the model that this home was begun with."""
    model: ModelClient
    ours: bool = False
    fault: NightschoolError | None = None
    _found: tuple[Path, int] | None = None
    """The model and the inode of the mapping that was found last."""

    def __post_init__(self) -> None:
        self.fault = ModelUnavailable(f"vLLM at {self.url} has not answered yet")

    @property
    def mapping(self) -> Path:
        """See `Server`."""
        return self.place.directory

    @property
    def model_dir(self) -> Path:
        """See `Server`."""
        if self._found is None:
            raise ModelUnavailable(f"which model vLLM at {self.url} serves is not known yet: start it")
        return self._found[0]

    def is_there(self) -> bool:
        """See `Server`."""
        try:
            self._find()
        except NightschoolError:
            return False
        return True

    async def start(self) -> None:
        """Return when a vLLM serves this home's model, shares its weights and takes our key; see `fault` till then.

        The boundary at which whatever is wrong with it becomes something to wait for.
        """
        while True:
            try:
                if not self.place.is_served():
                    self.place.sweep()
                    raise await self._absent()
                self._found = self._find()
                if not await self.model.health():
                    raise ModelUnavailable(
                        f"vLLM at {self.url} is still loading the model: try again in a minute"
                    )
                await self._lets_us_in()
            except NightschoolError as fault:
                if self.fault is None or str(self.fault) != str(fault):
                    log.warning("waiting for vLLM", reason=str(fault))
                self.fault = fault
                await anyio.sleep(LOOK_S)
            else:
                self.fault = None
                return

    async def ready(self) -> None:
        """See `Server`: it was when it had started."""

    async def ended(self) -> None:
        """Return when the server has let go of its place, or has made another mapping there."""
        found = None if self._found is None else self._found[1]
        while True:
            if not self.place.is_served() or self._inode() != found:
                break
            await anyio.sleep(LOOK_S)
        self.fault = ModelUnavailable(f"vLLM at {self.url} has gone: start it again")

    async def stop(self) -> None:
        """See `Server`."""
        self.place.sweep()

    def _find(self) -> tuple[Path, int]:
        """The model and the mapping that are shared, or what is wrong with them."""
        if refused := self.place.refused:
            raise GateRefused(f"vLLM at {self.url} serves on, untrained: {refused}")
        model_dir, inode = model_identity.served(self.place), self._inode()
        if model_dir is None or inode is None:
            raise ModelUnavailable(f"vLLM at {self.url} shares no weights yet: try again in a minute")
        model_identity.require(model_dir, self.digest, "have it serve that one", f"vLLM at {self.url}: ")
        return model_dir, inode

    def _inode(self) -> int | None:
        try:
            return os.stat(self.place.mapping).st_ino
        except FileNotFoundError:
            return None

    async def _lets_us_in(self) -> None:
        try:
            await self.model.models()
        except ModelUnavailable as refused:
            raise ModelUnavailable(f"vLLM at {self.url}: {refused}") from refused

    async def _absent(self) -> ModelUnavailable:
        """Why nobody is at the place."""
        if await self.model.health():
            return ModelUnavailable(f"vLLM at {self.url} {WITHOUT_PLUGIN}")
        return ModelUnavailable(f"vLLM at {self.url} does not answer: start it there, or set model.url")


WITHOUT_PLUGIN = (
    "runs without the plugin (started before this home was configured, or NIGHTSCHOOL_HOME differs, "
    "or the package is not installed beside it): restart it"
)


def client(home: Home, settings: Settings, run_dir: Path) -> AbstractAsyncContextManager[ModelClient]:
    """The way to the server that is configured."""
    if settings.model.url:
        return open_client(token=settings.model.api_key, base_url=settings.model.url)
    return open_client(token=home.token(), socket=run_dir / "model.sock")


def configured(
    home: Home, settings: Settings, run_dir: Path, ledger: Ledger, model: ModelClient, wanted: str
) -> Server:
    """The server that is configured; wanted: the digest of the model that this home was begun with."""
    if settings.model.path or not settings.model.url:
        model_identity.require(Path(settings.model.path or MODEL_DIR), wanted, "set model.path back")
    if settings.model.url:
        return ExternalServer(
            url=settings.model.url, place=ServedDirectory(home.served_dir), digest=wanted, model=model
        )
    return Embedded(
        mapping=run_dir,
        model_dir=Path(settings.model.path or MODEL_DIR),
        checkpoints=home.checkpoints,
        token_file=home.token_file,
        readout=home.path / "readout",
        logs=home.path / "logs",
        threads=settings.model.threads,
        ledger=ledger,
    )
