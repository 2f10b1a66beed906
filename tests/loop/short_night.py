"""Nights without their talk, in processes that are forked from one that has loaded everything: some tenths of
a second.

    python tests/loop/short_night.py        (reads orders, a JSON object a line, and answers each with one)

What is durable is the real thing: the trainer's verbs on a mapping of a tiny model, the checkpoint files, the
ledger, and the order in which a night goes through them. What the model says, and how it is judged, is left
out. Whatever was begun in a home is gone on with, as a service would, so that a home can be crashed anywhere
and taken up again.
"""

import itertools
import json
import os
import random
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import torch
from lost_writes import recording
from transformers import AutoModelForCausalLM, Qwen3Config

from agents.model.protocol import RpcRequest
from agents.model.steering.concept_vectors import write_files
from agents.model.weights import views
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import restore, to_raw
from agents.trainer.messages import Example, Settings, TrainRequest
from agents.trainer.process.worker import Worker
from agents.trainer.update.training import TrainerContext
from agents.trainer.wire import pack_train
from corpus.aliases import Json
from loop.capture import log
from loop.night import gc
from store import queries
from store.checkpoints.store import CheckpointStore
from store.files import failpoints
from store.home import Home, create
from store.ledger.db import Ledger, database_url, now
from store.ledger.records import Checkpoint, Update, save
from store.nights import history
from store.queue.outcome import Change, apply

SETTINGS = Settings(lr=1e-5, batch_size=4, beta=0.2, rank=4, norm_cap=0.5)
NIGHTS = 2
STATES = 1
"""Of so many checkpoints the optimizer's state is kept: the second night gives up that of the first."""
DIM = 32


def model_files(folder: Path) -> None:
    """Write the configuration of a tiny Qwen3 in bfloat16, whose checkpoints are deltas."""
    Qwen3Config(
        architectures=["Qwen3ForCausalLM"], vocab_size=48, hidden_size=DIM, intermediate_size=DIM,
        num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, dtype="bfloat16",
    ).save_pretrained(folder)  # fmt: skip


def first_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the tiny model before any night."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(Qwen3Config.from_pretrained(folder), dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return dict(model.state_dict())


def examples(night: int) -> list[Example]:
    draw = random.Random(night)
    rows = [[[draw.randrange(48) for _ in range(draw.randint(2, 5))] for _ in range(3)] for _ in range(8)]
    return [Example(context=c, chosen=w, rejected=r) for c, w, r in rows]


class ShortHome:
    """A home with its ledger, files, mapping and trainer, all in this process."""

    def __init__(self, path: Path, model: Path) -> None:
        self.model = model
        self.home: Home = create(path)
        self.ledger = Ledger(database_url(path))
        self.store = CheckpointStore(self.home.checkpoints)

    def init(self) -> None:
        """Write checkpoint 0 as `init` does, and the leftovers of a process that died."""
        if not self._read(queries.checkpoints):
            raw = {
                name: to_raw(tensor)
                for name, tensor in first_weights(self.model).items()
                if name != "lm_head.weight"
            }
            self.store.write(
                {name: tensor for name, tensor in raw.items() if "norm" in name}, None, {"orphan": True}
            )
            written = self.store.write(raw, None, {"cursor": 0, "seed": None, "settings": None})
            self._write(history.add_base, written.id, written.weights_sha256)

    def recover(self, *, service: bool = True) -> None:
        """Do what a service and its trainer do at their start, or a trainer alone."""
        if service:
            anyio.run(gc.sweep, self.store, self.ledger, 0.0)  # through the trash, and out of it
        self.active = self._read(queries.active).id
        mapping = self.home.path / "run" / "weights.bin"  # it outlives us, as that of a vLLM
        if not mapping.with_suffix(".json").exists():
            mapping.parent.mkdir(exist_ok=True)
            SharedWeights.create(mapping, first_weights(self.model), model=str(self.model))
        self.shared = SharedWeights.attach(mapping)
        restore(self.shared, self.store, self.active, clean=True, force=self.shared.dirty)
        self.worker = Worker(
            TrainerContext(shared=self.shared, model=views.build(self.shared, self.model), store=self.store),
            lambda _: None,
        )

    def nights(self) -> None:
        """Run all nights that are left; then repeat the first update, whose state was dropped."""
        while (night := self._read(queries.running_night)) or len(self._kept()) <= NIGHTS:
            self._night(
                str(night.id) if night else self._write(partial(history.begin_night, seed=1, retry=False))
            )
        self._forget()
        (self.home.path / "readout").mkdir(exist_ok=True)
        write_files(self.home.path / "readout", {"a": [b"tensors"], "b": [b"card"]})
        base = self._kept()[0]
        self._trained(base, 1)
        self._ask("rollback", {"checkpoint": self._read(queries.active).id, "settled": True})

    def _forget(self) -> None:
        """Empty a line of a captured log, as `forget` does."""
        captured = self.home.inbox / "captured-a.jsonl"
        if not captured.exists():
            captured.write_bytes(b"forgotten\nkept\n")
        log.sweep(self.home.inbox)
        log.blank(captured, [1])

    def _night(self, night_id: str) -> None:
        number = int(night_id[1:])
        update = self._read(queries.update_of, night_id)
        if update is None:
            self._write(save, [Update(
                id=f"u{number}", night_id=night_id, objective="orpo", settings={}, seed=7,
                parent_id=self._read(queries.active).id, at=now(),
            )])  # fmt: skip
            update = self._read(queries.update_of, night_id)
        if update.state == "planned":
            files = self._trained(update.parent_id, number)
            self._write(self._record, update, files)
            update = self._read(queries.update_of, night_id)
        if update.state == "trained":
            self._ask("rollback", {"checkpoint": update.parent_id, "settled": False})  # as for measuring
            self._ask("rollback", {"checkpoint": update.checkpoint_id, "settled": False})
            self._write(partial(history.carry_out, update=update, decision="keep", reasons=["better"]))
        self._ask("rollback", {"checkpoint": self._read(queries.active).id, "settled": True})
        anyio.run(gc.drop_states, self.store, self.ledger, STATES)
        self._write(partial(history.close_night, night_id=night_id))

    def _trained(self, parent: str, number: int) -> Json:
        """Train on the parent and write the candidate."""
        self._train(parent, number)
        return self._checkpoint(parent, number)

    def _train(self, parent: str, number: int) -> None:
        request = TrainRequest(
            objective="orpo", settings=SETTINGS, seed=7, parent=parent, examples=examples(number)
        )
        body, frames = pack_train(request)
        self._ask("train", body, frames)

    def _checkpoint(self, parent: str, number: int) -> Json:
        return self._ask("checkpoint", {"parent": parent, "fields": {"cursor": number, "seed": 7}})

    def _record(self, connection: Any, update: Any, files: Json) -> None:
        """Write the rows of a trained update in one transaction, as the trainer's work does."""
        number = len(queries.checkpoints(connection))
        row = Checkpoint(
            id=files["id"], parent_id=update.parent_id, number=number,
            weights_sha256=files["weights_sha256"], update_id=update.id, state="candidate", at=now(),
        )  # fmt: skip
        save(connection, [row])
        values = {"state": "trained", "checkpoint_id": files["id"]}
        apply(connection, Change(table="updates", where={"id": update.id}, values=values))

    def _kept(self) -> list[str]:
        return [row.id for row in self._read(queries.checkpoints) if row.state == "kept"]

    def _ask(self, verb: str, body: Json, frames: Any = ()) -> Json:
        return self.worker.answer(RpcRequest(id=verb, verb=verb, body=body, frames=frames), lambda _: None)[0]

    def _read(self, query: Callable[..., Any], *arguments: Any) -> Any:
        with self.ledger.reading() as connection:
            return query(connection, *arguments)

    def _write(self, transaction: Callable[..., Any], *arguments: Any) -> Any:
        with self.ledger.writing() as connection:
            return transaction(connection, *arguments)


def state_of(home: ShortHome) -> Json:
    """Return the state of a home."""
    known = [row.id for row in home._read(queries.checkpoints)]
    return {
        "active": home._read(queries.active).id,
        "holds": home.shared.holds,
        "dirty": home.shared.dirty,
        "files": sorted(_files(home)),
        "faults": [fault.problem for fault in home.store.verify(known)],
        "others": [
            path.read_text()
            for name in ("inbox", "readout")
            for path in sorted((home.home.path / name).iterdir())
        ],
        "needless": [str(path) for path in home.store.sweep(known)],
    }


def carry_out(order: Json) -> Json:
    """Do everything that the order asks for in a home; return the home's state."""
    failpoints.arm(order.get("crash", ""))
    counts = _counting() if order.get("count") else None
    began = monotonic()
    with recording(Path(order["record"]) if "record" in order else None):
        home = ShortHome(Path(order["home"]), Path(order["model"]))
        home.init()
        opened = monotonic()
        home.recover(service=not order.get("trainer"))
        ready = monotonic()
        recovered = (
            home.store.verify([home.active]),
            home.shared.holds == home.active and not home.shared.dirty,
        )
        left = [str(path) for path in home.home.checkpoints.rglob("*.tmp")]
        if "refusals" in order:
            return refused(home, order["refusals"])
        home.nights()
    return {
        **state_of(home), "seconds": ready - began, "restored_in": ready - opened,
        "recovered": recovered == ([], True), "left": left, "counts": counts,
    }  # fmt: skip


def _counting() -> Json:
    """Count every failpoint as it is reached."""
    counts: Json = dict.fromkeys(failpoints.POINTS, 0)

    def count(point: str) -> None:
        counts[point] += 1

    failpoints.arm("counting")
    failpoints._die_if_due = count
    return counts


def refused(home: ShortHome, refusals: list[Json]) -> Json:
    """Have the system refuse an update's checkpoint in each of these ways; return the results in order.

    The update is the next one. A refusal with a `call` is of each of the calls that there are, one after the
    other.
    """
    parent = home.active
    before = _files(home)
    home._train(parent, 1)
    attempts = []
    for refusal in refusals:
        numbers = iter([0]) if "limit" in refusal else itertools.count(1)
        for number in numbers:
            try:
                with _refusing(refusal, number):
                    home._checkpoint(parent, 1)
            except Exception as error:
                kind, message = type(error).__name__, str(error)
            else:
                break
            attempts.append({
                **refusal, "number": number, "error": kind, "message": message,
                "left": sorted(_files(home) - before),
                "gone": sorted(before - _files(home)), "faults": len(home.store.verify([parent])),
                "loads": len(home.store.load_weights(parent)),
            })  # fmt: skip
            for path in _files(home) - before:  # what the test then fails for is not to spoil the rest
                (home.home.path / path).unlink()
        for path in _files(home) - before:  # of a checkpoint that came about
            (home.home.path / path).unlink()
    home._ask("rollback", {"checkpoint": parent, "settled": True})
    served = home.shared.holds == parent and not home.shared.dirty
    home.nights()
    return {"attempts": attempts, "served": served, **state_of(home)}


def _files(home: ShortHome) -> set[str]:
    """Return all checkpoint files by their path in the home."""
    there = home.home.checkpoints.rglob("*")
    return {path.relative_to(home.home.path).as_posix() for path in there if path.is_file()}


@contextmanager
def _refusing(refusal: Json, number: int) -> Iterator[None]:
    """Make the system refuse files over `limit` bytes, or call `number` once with `errno`."""
    if "limit" in refusal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (refusal["limit"], resource.RLIM_INFINITY))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return
    real, calls = getattr(os, refusal["call"]), 0

    def refuse(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(refusal["errno"], os.strerror(refusal["errno"]))
        return real(*arguments, **options)

    setattr(os, refusal["call"], refuse)
    try:
        yield
    finally:
        setattr(os, refusal["call"], real)


def _in_a_child(order: Json) -> Json:
    """Carry out an order in a process of its own that leads its group; return its status and answer."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            answer = carry_out(order)
        except BaseException as error:
            answer = {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
        os.write(writes, json.dumps(answer).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as stream:
        output = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"status": status, **(json.loads(output) if output else {})}


def main() -> None:
    """Answer orders until there are no more."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for line in sys.stdin:
        order = json.loads(line)
        if "model_files" in order:
            model_files(Path(order["model_files"]))
            answer: Json = {}
        else:
            answer = _in_a_child(order)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
