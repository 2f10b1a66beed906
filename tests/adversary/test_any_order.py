"""A ledger and its checkpoints under nights, kills, restores, lost ledgers and rollbacks in any order.

Hypothesis draws the order. What a commit has acknowledged is never lost: neither a conversation in its
ledger, nor the files of a checkpoint that a verdict kept. What is active is never missing once a home has
started. The weights are a few numbers, and a killed process is an exception at a failpoint.
"""

import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, select

from corpus.conversation import Conversation, Turn
from corpus.errors import GateRefused, IntegrityFault
from loop.night import gc
from loop.operations.recover import _found
from store import backup, belonging, queries
from store.checkpoints.retention import Policy, reasons
from store.checkpoints.store import CheckpointStore
from store.conversations import conversations
from store.files import failpoints
from store.home import Home, create
from store.ledger import schema
from store.ledger.db import Ledger, database_url, now
from store.ledger.records import Checkpoint, Update, save
from store.nights import history, rebuild
from store.tensors.raw import RawTensor

FIRST, OTHER = "ledger.db", "other.db"


class Killed(BaseException):
    """The process died at a failpoint."""


@contextmanager
def dying(at: int) -> Iterator[None]:
    """Die at the failpoint of this number, counted from 1; 0 for never. What follows sees the death."""
    reached = 0

    def die(_point: str) -> None:
        nonlocal reached
        reached += 1
        if reached == at:
            raise Killed

    before = failpoints._die_if_due, failpoints._armed
    failpoints._die_if_due, failpoints._armed = die, "yes"
    try:
        yield
    finally:
        failpoints._die_if_due, failpoints._armed = before


def weights(number: int) -> dict[str, RawTensor]:
    data = struct.pack("<64f", *(number + 0.5 * place for place in range(64)))
    return {"w": RawTensor(dtype="F32", shape=(64,), data=data)}


kills = st.one_of(st.just(0), st.integers(1, 40))


class AnyOrder(RuleBasedStateMachine):
    """One home, in which all of this happens in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="any-order-"))
        self.homes, self.number, self.backups = 0, 0, 0
        self.home = create(self.root / "home0")
        self.said: dict[str, set[str]] = {FIRST: set(), OTHER: set()}
        """The texts that each ledger has acknowledged."""
        self.kept: set[str] = set()
        """The checkpoints whose keeping a ledger of this home has acknowledged."""
        self.saved: list[tuple[str, set[str], set[str]]] = []
        """Of each backup: its name, and what it must have."""
        self.copied: set[str] = set()
        """What the copy of the ledger has."""
        self.database = FIRST
        with self.writing() as connection:
            first = self.store.write(weights(0), None, {"parent": None, "cursor": 0})
            history.add_base(connection, first.id, first.weights_sha256, "model")
        self.kept.add(first.id)
        self.start()

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @property
    def store(self) -> CheckpointStore:
        return CheckpointStore(self.home.checkpoints)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Open the ledger that the configuration names."""
        other = "" if self.database == FIRST else f"sqlite:///{self.home.path / OTHER}"
        opened = Ledger(database_url(self.home.path, other))
        try:
            yield opened
        finally:
            opened.close()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with self.ledger() as opened, opened.writing() as connection:
            yield connection

    def start(self) -> bool:
        """Start as a service does; return whether it does."""
        with self.ledger() as opened:
            try:
                with opened.reading() as connection:
                    belonging.require_own(belonging.problem(connection, self.store))
            except IntegrityFault:
                return False
            anyio.run(gc.sweep, self.store, opened, 14.0)
            with opened.reading() as connection:
                rows = queries.checkpoints(connection)
                night = queries.running_night(connection)
            if night is not None:
                with opened.writing() as connection:
                    history.end_night(connection, night_id=night.id, why="it was killed", settles=False)
        return bool(rows)

    @rule(text=st.integers(0, 10_000), kill=kills)
    def ingest(self, text: int, kill: int) -> None:
        turns = (Turn(role="user", text=f"said {text}", line=1),)
        said = Conversation(source="anna", format="openai", turns=turns)
        with suppress(Killed), dying(kill):
            with self.writing() as connection:
                conversations.add(connection, said, "/a.jsonl")
            self.said[self.database].add(f"said {text}")

    @rule(keeps=st.booleans(), kill=kills)
    def night(self, keeps: bool, kill: int) -> None:
        if not self.start():
            return
        self.number += 1
        with suppress(Killed), dying(kill), self.ledger() as opened:
            with opened.writing() as connection:
                night_id = history.begin_night(connection, seed=self.number, retry=False)
                parent, count = queries.active(connection), len(queries.checkpoints(connection))
                save(connection, [Update(
                    id=f"u{night_id[1:]}", night_id=night_id, objective="orpo", settings={}, seed=1,
                    parent_id=parent.id, at=now(),
                )])  # fmt: skip
            fields = {"parent": parent.id, "cursor": self.number}
            written = self.store.write(weights(self.number), None, fields)
            with opened.writing() as connection:
                save(connection, [Checkpoint(
                    id=written.id, parent_id=parent.id, number=count, weights_sha256=written.weights_sha256,
                    update_id=f"u{night_id[1:]}", state="candidate", at=now(),
                )])  # fmt: skip
                u = schema.updates
                done = {"state": "trained", "checkpoint_id": written.id}
                connection.execute(u.update().where(u.c.night_id == night_id).values(**done))
            with opened.writing() as connection:
                update = queries.update_of(connection, night_id)
                assert update is not None
                decision = "keep" if keeps else "roll back"
                history.carry_out(connection, update=update, decision=decision, reasons=[decision])
                history.close_night(connection, night_id=night_id)
            if keeps:
                self.kept.add(written.id)
            anyio.run(gc.agree, self.store, opened)

    @rule(which=st.integers(0, 30), kill=kills)
    def rollback(self, which: int, kill: int) -> None:
        if not self.start():
            return
        with suppress(Killed), dying(kill), self.writing() as connection:
            others = history.nearest(connection, queries.active(connection).id)
            if others:
                history.roll_back(connection, others[which % len(others)], "by hand")

    @rule(last=st.integers(1, 3), kill=kills)
    def prune(self, last: int, kill: int) -> None:
        if not self.start():
            return
        with suppress(Killed), dying(kill), self.ledger() as opened:
            with opened.reading() as connection:
                if belonging.problem(connection, self.store) is not None:
                    return
            with opened.writing() as connection:
                rows, active = queries.checkpoints(connection), queries.active(connection).id
                stay = reasons(rows, Policy(keep_last=last, keep_daily=0), active=active, good=active)
                gone = [name for name, why in stay.items() if not why]
                history.set_pruned(connection, gone, {"last": last})
            anyio.run(gc.sweep, self.store, opened, 14.0)

    @rule()
    def switch_database(self) -> None:
        self.database = OTHER if self.database == FIRST else FIRST

    @rule()
    def delete_ledger(self) -> None:
        for path in self.home.path.glob(f"{self.database}*"):
            path.unlink()
        self.said[self.database] = set()

    @precondition(lambda self: (self.home.path / FIRST).exists())
    @rule()
    def copy_ledger(self) -> None:
        """Copy the ledger by hand, as a user may who has no backups."""
        shutil.copy(self.home.path / FIRST, self.home.path / "copy")
        self.copied = set(self.said[FIRST])

    @precondition(lambda self: (self.home.path / "copy").exists())
    @rule()
    def put_back_ledger(self) -> None:
        for path in self.home.path.glob(f"{FIRST}*"):
            path.unlink()
        shutil.copy(self.home.path / "copy", self.home.path / FIRST)
        self.said[FIRST] = set(self.copied)

    @rule()
    def delete_owner(self) -> None:
        (self.home.checkpoints / belonging.OWNER).unlink(missing_ok=True)

    @rule(kill=kills)
    def recover(self, kill: int) -> None:
        with suppress(Killed, GateRefused), dying(kill), self.ledger() as opened:
            with opened.reading() as connection:
                found = belonging.problem(connection, self.store)
            if found is None or found.kind == "foreign":
                return
            on_disk, _ = _found(self.store)
            owner = belonging.owner_of(self.store)
            with opened.writing() as connection:
                rebuild.enter(connection, on_disk, owner, "", "model")
            anyio.run(gc.agree, self.store, opened)

    @precondition(lambda self: self.database == FIRST)
    @rule(kill=kills)
    def back_up(self, kill: int) -> None:
        if not self.start():
            return
        named = self.named()
        with suppress(Killed), dying(kill):
            made = backup.back_up(self.home, self.root / "backups")
            self.saved.append((made.name, set(self.said[FIRST]), self.kept & named))
        assert backup.check(self.root / "backups").problems == []

    @precondition(lambda self: self.saved)
    @rule(which=st.integers(0, 30), kill=kills)
    def restore(self, which: int, kill: int) -> None:
        name, said, kept = self.saved[which % len(self.saved)]
        self.homes += 1
        new = Home(self.root / f"home{self.homes}")
        with suppress(Killed), dying(kill):
            backup.restore(self.root / "backups", new, name)
            self.home, self.database = new, FIRST
            self.said, self.kept = {FIRST: set(said), OTHER: set()}, set(kept)
            assert self.start()

    def named(self) -> set[str]:
        """Return the checkpoints that the ledger names and has not pruned."""
        with self.ledger() as opened, opened.reading() as connection:
            return set(queries.stored(connection))

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        with self.ledger() as opened, opened.reading() as connection:
            texts = set(connection.execute(select(schema.turns.c.text)).scalars())
        assert self.said[self.database] <= texts
        trash = {path.stem for path in self.store.trash.files()}
        assert self.kept <= {*self.store.ids(), *trash}

    @invariant()
    def nothing_active_is_missing(self) -> None:
        if self.start():
            with self.ledger() as opened, opened.reading() as connection:
                active = queries.active(connection).id
            assert self.store.verify([active]) == []


def run(examples: int, steps: int) -> None:
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=examples < 100,
        suppress_health_check=list(HealthCheck), database=None,
    )  # fmt: skip
    run_state_machine_as_test(AnyOrder, settings=chosen)


def test_nothing_is_lost_in_any_order() -> None:
    run(examples=3, steps=12)


@pytest.mark.slow
def test_nothing_is_lost_in_any_order_of_many() -> None:
    run(examples=400, steps=50)
