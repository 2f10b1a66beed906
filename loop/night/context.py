"""The context of a night's stages: the ledger, the settings, and the agents that the stages call.

Invariant: a context is frozen and belongs to one opened home. A stage gets this context, and knows nothing of
the service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.evaluator.measure import Evaluator
from agents.model.answer_limit import AnswerLimit
from agents.model.client import ModelClient
from agents.model.describe import is_shipped
from agents.readout.monitor import Monitor
from agents.trainer.client import TrainerClient
from agents.trainer.handler import trainer_settings
from agents.trainer.messages import Settings as TrainerSettings
from corpus.abilities.prompts import NAME, AbilityPrompt, digest, load, select
from corpus.behaviour import Behaviour, definition
from corpus.errors import NightschoolError
from loop.config import Settings
from store import queries
from store.checkpoints.store import CheckpointStore
from store.ledger.db import Ledger
from store.ledger.records import Checkpoint, Update

MEASURED = 2
"""Number of the way in which scenarios are measured; at 1 all were answered together. Outcomes of another way
are not compared with new ones."""


@dataclass(frozen=True, kw_only=True)
class NightContext:
    """The parts of an opened home that the stages of a night work with."""

    ledger: Ledger
    settings: Settings
    behaviours: dict[str, Behaviour]
    definitions: dict[str, str]
    """For each name in `measured`: the digest of everything on which its pass rate depends."""
    store: CheckpointStore
    model: ModelClient
    trainer: TrainerClient
    evaluator: Evaluator
    monitor: Monitor
    abilities: tuple[AbilityPrompt, ...] = ()
    """The prompts of the test `abilities`, which checks that general abilities stay; none for the shipped
    model."""

    @property
    def is_shipped(self) -> bool:
        """Whether the served model is the one that ships with the package."""
        return is_shipped(self.monitor.model_digest)

    def training(self, pairs: int) -> TrainerSettings:
        """Return the settings that the trainer gets for an update with this many pairs."""
        return trainer_settings(self.settings.training, shipped=self.is_shipped, pairs=pairs)

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of everything that is measured: all behaviours, and `abilities` if that test is used."""
        return (*self.behaviours, *((NAME,) if self.abilities else ()))

    def base_behaviour(self, name: str) -> str:
        """Return the behaviour that a counter-behaviour guards; return any other behaviour's own name."""
        return self.behaviours[name].counter_of or name

    def counters(self) -> set[str]:
        """Return the names of the counter-behaviours."""
        return {behaviour.name for behaviour in self.behaviours.values() if behaviour.counter_of}

    async def update(self, night_id: str) -> Update:
        """Return the night's update; raise `NightschoolError` if the night has none."""
        update = await self.ledger.read(queries.update_of, night_id)
        if update is None:
            raise NightschoolError(f"night {night_id} has no update; see `nightschool ledger events`")
        return update

    async def checkpoint(self, night_id: str, when: str) -> Checkpoint:
        """Return the checkpoint before the night's update or after it.

        Args:
            night_id: The night.
            when: "before" for the update's parent, "after" for its candidate.
        """
        update = await self.update(night_id)
        checkpoint_id = update.parent_id if when == "before" else update.checkpoint_id or ""
        return await self.ledger.read(queries.checkpoint, checkpoint_id)

    async def hold(self, night_id: str, when: str) -> Checkpoint:
        """Write the checkpoint before or after the night's update to the shared weights, and return it.

        Args:
            night_id: The night.
            when: "before" for the update's parent, "after" for its candidate.
        """
        checkpoint = await self.checkpoint(night_id, when)
        await self.trainer.rollback(checkpoint.id, settled=False)
        return checkpoint


def answer_limit(settings: Settings, model_digest: str) -> AnswerLimit:
    """Return the rule for the largest length of the answers of a night on this model."""
    return AnswerLimit(tokens=settings.pairs.max_tokens, shipped=is_shipped(model_digest))


def ability_prompts(settings: Settings, model_digest: str) -> tuple[AbilityPrompt, ...]:
    """Return the prompts that test a model's general abilities.

    Return none for the shipped model, which knows only the small world that it was trained on.
    """
    if is_shipped(model_digest):
        return ()
    return select(load(), settings.verdict.abilities)


def definitions(
    behaviours: Mapping[str, Behaviour], settings: Settings, prompts: Sequence[AbilityPrompt]
) -> dict[str, str]:
    """Return the digest of the present definition of everything that is measured, by name.

    Args:
        behaviours: The behaviours and counter-behaviours, by name.
        settings: The effective configuration.
        prompts: The prompts of the test `abilities`; empty if that test is not used.
    """
    defined = {name: definition(each, settings.verdict.scenarios) for name, each in behaviours.items()}
    if prompts:
        defined[NAME] = digest(prompts)[:16]
    return {name: f"{each}/{MEASURED}" for name, each in defined.items()}
