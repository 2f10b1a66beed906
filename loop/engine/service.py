"""The service: all parts that one process needs to do a home's work, opened and closed together.

Invariant: the process that opens a `Service` holds the home's lock until the service is closed. `opened`
starts neither the child processes nor the worker: its caller starts them.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import structlog

from agents.evaluator.measure import Evaluator
from agents.model.client import ModelClient
from agents.model.describe import attention_heads, count_layers
from agents.model.threads import threads_for
from agents.readout.monitor import Monitor
from agents.trainer.client import TrainerClient
from corpus.behaviour import Behaviour
from corpus.recipe import MODEL_DIR
from loop.config import Settings
from loop.engine import model_identity, model_servers
from loop.engine.health import Health
from loop.engine.processes import ProcessSupervisor
from loop.engine.worker import Worker
from loop.engine.yielding import Users
from loop.lessons.accepting import Accepting
from loop.night import gc
from loop.night.context import NightContext, ability_prompts, answer_limit, definitions
from loop.night.handlers import handlers
from store import belonging, queries
from store.checkpoints.store import CheckpointStore
from store.conversations import privacy, rescrub
from store.home import Home, close_to_others, locked, new_token, run_directory
from store.ledger.db import Ledger, database_url
from store.nights import history
from store.queue import work

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts of an opened home; `opened` makes one."""

    home: Home
    context: NightContext
    processes: ProcessSupervisor
    users: Users
    worker: Worker
    health: Health
    files: anyio.Lock = field(default_factory=anyio.Lock)
    """The lock that an operation holds while it writes or removes checkpoint files outside a night."""

    @property
    def settings(self) -> Settings:
        """The effective configuration."""
        return self.context.settings

    @property
    def ledger(self) -> Ledger:
        """The home's ledger."""
        return self.context.ledger

    @property
    def behaviours(self) -> dict[str, Behaviour]:
        """The home's behaviours and counter-behaviours, by name."""
        return self.context.behaviours

    @property
    def store(self) -> CheckpointStore:
        """The checkpoint files."""
        return self.context.store

    @property
    def model(self) -> ModelClient:
        """The client of the served model."""
        return self.context.model

    @property
    def trainer(self) -> TrainerClient:
        """The client of the trainer."""
        return self.context.trainer

    @property
    def accepting(self) -> Accepting:
        """What turns proposals into behaviours of this home."""
        return Accepting(home=self.home, context=self.context)

    async def begin_night(self, *, seed: int, retry: bool) -> str:
        """Begin a night and return its id; if a night is running already, return the id of that one.

        Args:
            seed: The seed of everything that the night draws.
            retry: Whether to take up the pairs of undone updates again.
        """
        await self.accepting.accept_by_itself()
        async with self.files:  # no night may begin to write files while a `prune` sweeps them
            night_id = await self.ledger.write(partial(history.begin_night, seed=seed, retry=retry))
        self.worker.wake()
        return night_id


async def scrub_again(service: Service) -> None:
    """Scrub stored text again, a few rows at a time, if other rules than today's were used on it."""
    if await service.ledger.read(rescrub.is_due):
        log.info("stored text is scrubbed again: the rules are others")
        while await service.ledger.write(rescrub.step):
            await anyio.lowlevel.checkpoint()
        log.info("stored text is scrubbed")


@asynccontextmanager
async def opened(home: Home, settings: Settings) -> AsyncIterator[Service]:
    """Lock the home and yield its service, with no child process and no worker running yet."""
    async with AsyncExitStack() as stack:
        if not home.chat_token_file.exists():  # made by an earlier version
            new_token(home.chat_token_file)
        for path in close_to_others(home):
            log.warning("was open to other users, and is closed now", path=str(path))
        stack.enter_context(locked(home))
        run_dir = stack.enter_context(run_directory(home))
        ledger = Ledger(database_url(home.path, settings.database))
        stack.callback(ledger.close)
        await _require_own(home, ledger)
        health = Health(ledger=ledger)
        await health.attempt(partial(_take_up, home, settings, ledger))
        model = await stack.enter_async_context(model_servers.client(home, settings, run_dir))
        trainer = await stack.enter_async_context(TrainerClient(run_dir))
        model_digest = await ledger.read(queries.model_digest)
        server = model_servers.configured(home, settings, run_dir, ledger, model, model_digest)
        monitor = Monitor(
            model=model,
            trainer=trainer,
            directory=home.path / "readout",
            layers=lambda: count_layers(server.model_dir),
            model_digest=model_digest,
            exchanges=settings.monitor.exchanges,
            heads=lambda: attention_heads(server.model_dir),
        )
        context = _context(home, settings, ledger, model, trainer, monitor)
        service = _service(home, context, server, run_dir, health)
        if not server.managed:  # users may have asked the vLLM directly before this service could see them
            service.users.asked()
        yield service


async def _require_own(home: Home, ledger: Ledger) -> None:
    """Raise an error unless the home's checkpoint files belong to this ledger or to a newer copy of it."""
    belonging.require_own(await ledger.read(belonging.problem, CheckpointStore(home.checkpoints)))


async def _take_up(home: Home, settings: Settings, ledger: Ledger) -> None:
    """Take up what an earlier service has left: its work, and files that no checkpoint needs."""
    await ledger.write(work.release_all)
    if not await ledger.read(privacy.agrees, settings.privacy.pii):
        await ledger.write(privacy.set_masking, settings.privacy.pii)
    await gc.sweep(CheckpointStore(home.checkpoints), ledger, settings.checkpoints.trash_days)


def _context(
    home: Home,
    settings: Settings,
    ledger: Ledger,
    model: ModelClient,
    trainer: TrainerClient,
    monitor: Monitor,
) -> NightContext:
    behaviours = model_identity.behaviours_of(home, monitor.model_digest)
    prompts = ability_prompts(settings, monitor.model_digest)
    return NightContext(
        ledger=ledger,
        settings=settings,
        behaviours=behaviours,
        definitions=definitions(behaviours, settings, prompts),
        store=CheckpointStore(home.checkpoints),
        model=model,
        trainer=trainer,
        evaluator=Evaluator(
            model=model,
            limit=answer_limit(settings, monitor.model_digest),
            temperature=settings.pairs.temperature,
        ),
        monitor=monitor,
        abilities=prompts,
    )


def _service(
    home: Home, context: NightContext, server: model_servers.Server, run_dir: Path, health: Health
) -> Service:
    settings = context.settings.model
    model_dir = None if settings.url and not settings.path else Path(settings.path or MODEL_DIR)
    processes = ProcessSupervisor(
        run_dir=run_dir,
        checkpoints=home.checkpoints,
        logs=home.path / "logs",
        threads=threads_for(settings.threads, model_dir),
        ledger=context.ledger,
        server=server,
        trainer=context.trainer,
    )
    users = Users(ledger=context.ledger, trainer=context.trainer, schedule=context.settings.schedule)
    worker = Worker(
        ledger=context.ledger,
        trainer=context.trainer,
        processes=processes,
        users=users,
        handlers=handlers(context),
    )
    processes.on_start = partial(worker.announce, "start", "")
    return Service(home=home, context=context, processes=processes, users=users, worker=worker, health=health)
