"""Updates from their rows to a candidate: the origin of reference log-probabilities, and alarms."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from sqlalchemy import select

from agents.model.client import ModelClient
from agents.model.steering.concept_vectors import ConceptVectors, write
from agents.model.weights.shared import SharedWeights
from agents.trainer.client import TrainerClient
from agents.trainer.handler import TrainHandler, alarms
from agents.trainer.messages import Settings, StepReport
from agents.trainer.update.rates import FIRST_SHARE
from corpus.recipe import MODEL_DIR
from store import queries
from store.checkpoints.store import CheckpointStore
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.ledger.records import Pair, Update, UpdatePair, save
from store.nights import history
from store.queue.outcome import Outcome, commit
from store.queue.work import Work, enqueue, lease

SETTINGS = Settings(lr=1e-3, batch_size=2, beta=0.25)
TEXTS = {
    "p1": ("Monday", "Friday"),
    "p2": ("yes", "no, never"),
    "p3": ("7", "seven or so"),
    "p4": ("here", "there"),
}


class School:
    """A home with a trainer on the shipped weights, and a ledger."""

    def __init__(self, home: Path, served: Callable[..., Any]) -> None:
        self.home, self.served = home, served
        self.base_files = self.ask(lambda trainer: trainer.checkpoint(None, {"cursor": 0, "seed": 1}))
        self.base = self.base_files.id

    def begin(self, folder: Path) -> None:
        """Return to the base, with a ledger that holds nothing else."""
        self.ask(lambda trainer: trainer.rollback(self.base, settled=True))
        self.ledger = Ledger(database_url(folder))
        with self.ledger.writing() as connection:
            history.add_base(connection, self.base, self.base_files.weights_sha256)

    def ask(self, conversation: Callable[[TrainerClient], Any]) -> Any:
        """Run a conversation with the trainer."""

        async def run() -> Any:
            async with TrainerClient(self.home / "run", beat=0.2) as trainer:
                with anyio.fail_after(90):
                    return await conversation(trainer)

        return anyio.run(run)

    def night(self, names: Sequence[str], decision: str, settings: Settings = SETTINGS) -> Outcome:
        """Run a night whose update trains on these pairs from the active checkpoint; return its outcome."""
        with self.ledger.writing() as connection:
            night_id = history.begin_night(connection, seed=1, retry=False)
            parent = str(queries.active(connection).id)
            update = Update(
                id=f"u{night_id}", night_id=night_id, objective="dpo", settings=asdict(settings), seed=1,
                parent_id=parent, at="2026-01-01T00:00:00.000+00:00",
            )  # fmt: skip
            save(connection, [a_pair(name, night_id, parent) for name in names])
            save(connection, [update])
            save(connection, [UpdatePair(update_id=update.id, pair_id=name, replay=False) for name in names])
            while (planned := lease(connection, "test")) is not None:
                connection.execute(schema.work.delete().where(schema.work.c.id == planned.id))
            enqueue(connection, "train", "update", night_id)
            item = lease(connection, "test")
        assert item is not None
        outcome: Outcome = self.served(lambda model: self._train(model, item))
        with self.ledger.writing() as connection:
            commit(connection, item, outcome, [])
            row = queries.update_of(connection, night_id)
            assert row is not None
            if row.state == "trained":
                history.carry_out(connection, update=row, decision=decision, reasons=[decision])
            history.close_night(connection, night_id=night_id)
        return outcome

    def again(self, night_id: str) -> Outcome:
        """Repeat the update of a finished night from its rows."""
        item = Work(id=0, kind="train", subject="update", night_id=night_id, attempts=0)
        outcome: Outcome = self.served(lambda model: self._train(model, item))
        return outcome

    async def _train(self, model: ModelClient, item: Work) -> Outcome:
        async with TrainerClient(self.home / "run", beat=0.2) as trainer:
            handler = TrainHandler(
                ledger=self.ledger,
                model=model,
                trainer=trainer,
                behaviours=lambda: ("listen",),
                readout=self.home / "readout",
            )
            with anyio.fail_after(90):
                return await handler.handle(item, no_report)

    def pinned(self) -> dict[str, tuple[str | None, float | None, float | None]]:
        """Return reference id and log-probabilities by pair."""
        t = schema.pairs.c
        with self.ledger.reading() as connection:
            rows = connection.execute(select(t.id, t.reference_id, t.chosen_logprob, t.rejected_logprob))
            return {name: (version, chosen, rejected) for name, version, chosen, rejected in rows}

    def active(self) -> str:
        """Return the id of the active checkpoint."""
        with self.ledger.reading() as connection:
            return str(queries.active(connection).id)


async def no_report(done: int, total: int) -> None:
    """Ignore progress."""


def a_pair(name: str, night_id: str, checkpoint_id: str) -> Pair:
    chosen, rejected = TEXTS[name]
    return Pair(
        id=name, behaviour="listen", messages=[{"role": "user", "content": f"When is {name}?"}],
        chosen=chosen, rejected=rejected, chosen_from="attempt:a1", rejected_from="attempt:a2",
        dream_id=None, signal_id=None, source="anna", trust=1.0, checkpoint_id=checkpoint_id,
        state="new", night_id=night_id,
    )  # fmt: skip


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Any], shipped: Callable[..., Any]
) -> School:
    from transformers import AutoModelForCausalLM

    home = tmp_path_factory.mktemp("school")
    (home / "run").mkdir(mode=0o700)
    weights = AutoModelForCausalLM.from_pretrained(MODEL_DIR).state_dict()
    SharedWeights.create(home / "run" / "weights.bin", weights, model=str(MODEL_DIR))
    start(home, "--threads", "1", "--model", str(MODEL_DIR))
    return School(home, shipped)


@pytest.fixture
def school(running: School, tmp_path: Path) -> Iterator[School]:
    running.begin(tmp_path)
    yield running
    running.ledger.close()


def test_references_come_from_the_parent_and_are_the_same_after_a_rollback(
    school: School,
) -> None:
    first = school.night(["p1", "p2"], "keep")
    at_base = school.pinned()
    assert {version for version, *_ in at_base.values()} == {school.base}
    # The reference is the weights themselves at the first step.
    with school.ledger.reading() as connection:
        metrics = (
            connection.execute(select(schema.steps.c.metrics).order_by(schema.steps.c.step)).scalars().first()
        )
    assert (
        metrics is not None
        and metrics["margin"] == pytest.approx(0, abs=1e-4)
        and first.decision == "trained"
    )

    child = school.active()
    assert child != school.base
    school.night(["p1", "p3"], "roll back")
    at_child = school.pinned()
    assert [at_child[name][0] for name in ("p1", "p2", "p3")] == [child, school.base, child]
    assert at_child["p1"][1:] != at_base["p1"][1:] and at_child["p2"] == at_base["p2"]

    with (
        school.ledger.writing() as connection
    ):  # what nobody would compute: nothing of it comes into an update
        t = schema.pairs
        connection.execute(t.update().where(t.c.id == "p3").values(chosen_logprob=-321.0))
    school.night(["p3", "p1"], "roll back")
    assert school.pinned() == at_child

    with school.ledger.writing() as connection:
        history.roll_back(connection, school.base, "by hand")
    school.night(["p1", "p2"], "roll back")
    again = school.pinned()
    assert {name: again[name] for name in ("p1", "p2")} == {name: at_base[name] for name in ("p1", "p2")}


def test_an_update_repeated_after_rollbacks_gives_the_same_checkpoint_and_references(
    school: School,
) -> None:
    """An update depends on its own rows only, not on what was later pinned to its pairs."""
    first = school.night(["p1", "p2", "p3", "p4"], "keep")
    pinned, checkpoint_id = school.pinned(), school.active()
    second = school.night(["p2", "p4"], "keep")  # two of the pairs are pinned to its parent now
    assert school.active() not in (checkpoint_id, school.base) and school.pinned()["p2"] != pinned["p2"]
    for target, night_id, before in ((school.base, "n1", first), (checkpoint_id, "n2", second)):
        with school.ledger.writing() as connection:
            history.roll_back(connection, target, "by hand")
        school.ask(lambda trainer, target=target: trainer.rollback(target, settled=True))
        again = school.again(night_id)
        assert (
            again.facts == before.facts and again.changes == before.changes
        )  # the id, and the references by pair
        assert {change.values.get("reference_id", target) for change in again.changes} == {target}


def test_what_the_trainer_chose_is_in_the_ledger_and_in_the_manifest_and_an_update_made_again_agrees(
    school: School,
) -> None:
    outcome = school.night(["p1", "p2"], "roll back", replace(SETTINGS, lr="auto"))
    with school.ledger.reading() as connection:
        update = queries.update_of(connection, "n1")
    assert update is not None and update.checkpoint_id is not None
    chosen = update.settings["chosen"]
    assert update.settings["lr"] == "auto" and 0 < chosen["lr"] < 1 and chosen["compute"] == "weights"
    assert chosen["first_share"] == pytest.approx(FIRST_SHARE)
    manifest = CheckpointStore(school.home / "checkpoints").manifest(update.checkpoint_id).fields
    assert manifest["settings"]["chosen"] == chosen
    assert outcome.facts["lr"] == chosen["lr"]
    school.ask(lambda trainer: trainer.rollback(school.base, settled=True))
    assert school.again("n1").facts == outcome.facts  # the same checkpoint and the same choice


def test_the_references_of_a_refused_update_are_reused_by_the_next(school: School) -> None:
    refused = school.night(["p1", "p2"], "", Settings(lr=1e-3, batch_size=2, norm_cap=1e-9))
    assert refused.decision == "refused"
    before = school.pinned()
    assert {version for version, *_ in before.values()} == {school.base}
    assert school.night(["p1", "p2"], "roll back").decision == "trained"
    assert school.pinned() == before


def test_a_steered_update_records_its_vectors_and_unknown_vectors_are_refused(school: School) -> None:
    settings = Settings(lr=1e-3, batch_size=2, prevent={"echoing": 20.0})
    missing = school.night(["p1", "p2"], "", settings)
    assert missing.decision == "refused" and "`nightschool readout train`" in str(missing.facts["reason"])
    ids = {}
    for seed in (1, 2, 1):
        values = np.random.default_rng(seed).normal(size=(1, 1, 128)).astype(np.float32)
        write(
            school.home / "readout",
            ConceptVectors(concepts=("echoing",), layers=(2,), values=values, weights_version="w"),
        )
        checkpoint_id = str(school.night(["p1", "p2"], "roll back", settings).facts["checkpoint"])
        assert ids.setdefault(seed, checkpoint_id) == checkpoint_id, (
            "the same vectors make the same checkpoint"
        )
        fields = CheckpointStore(school.home / "checkpoints").manifest(checkpoint_id).fields
        assert fields["settings"]["prevent"] == {"echoing": 20.0} and len(fields["prevented"]) == 16
    plain = str(school.night(["p1", "p2"], "roll back", replace(settings, prevent={})).facts["checkpoint"])
    assert len({plain, *ids.values()}) == 3
    assert "prevented" not in CheckpointStore(school.home / "checkpoints").manifest(plain).fields


def reports(*logprobs: float) -> list[StepReport]:
    return [
        StepReport(step=i, steps=len(logprobs), metrics={"chosen_logprob": value, "margin": float(i)})
        for i, value in enumerate(logprobs, start=1)
    ]


def test_a_falling_chosen_log_probability_raises_an_alarm_whatever_the_margin() -> None:
    actual = alarms(reports(-1.0, -1.2, -1.5, -1.9, -2.5))
    assert actual == {"alarm": "chosen log-probability fell from -1.10 to -2.20 nats a token"}


@pytest.mark.parametrize(
    "logprobs", [(-2.0, -1.5, -1.2, -1.0), (-1.0, -1.05, -1.1, -1.1), (-1.0, -3.0, -5.0), ()]
)
def test_a_rise_a_fluctuation_and_too_few_steps_raise_no_alarm(logprobs: tuple[float, ...]) -> None:
    assert alarms(reports(*logprobs)) == {}
