"""A home with several nights, made by hand within a second: real files, real rows, no training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import numpy as np

from loop.operations import init
from store import queries
from store.checkpoints.store import CheckpointStore
from store.ledger.db import Ledger, database_url
from store.ledger.records import Checkpoint, Measurement, Pair, Reading, Update, UpdatePair, Verdict, save
from store.nights import history
from store.queue.outcome import Change, apply
from store.tensors.raw import RawTensor

DAYS = ("2026-03-01T10:00", "2026-03-01T22:00", "2026-03-02T10:00", "2026-03-03T10:00", "2026-03-03T12:00")
"""When the nights ended, the clock at UTC: two on the first day and on the third."""
HEAD = ("model.layers.1.self_attn.q_proj.weight", slice(64, 96))
"""What every night changes most: the rows of the third of four heads in the second layer."""


@dataclass(frozen=True, kw_only=True)
class NightsHome:
    """A home, and its checkpoints by number."""

    home: Path
    ids: list[str] = field(default_factory=list)

    @property
    def store(self) -> CheckpointStore:
        return CheckpointStore(self.home / "checkpoints")

    def ledger(self) -> Ledger:
        """Open the ledger; the caller closes it."""
        return Ledger(database_url(self.home))


def home_of_nights(place: Path, decisions: str) -> NightsHome:
    """Make a home with a night for each letter, one for each of DAYS: `k` is kept, `u` undone."""
    anyio.run(lambda: init.init(place, demo=False))
    home = NightsHome(home=place)
    ledger = home.ledger()
    try:
        with ledger.reading() as connection:
            home.ids.append(queries.active(connection).id)
        for number, decision in enumerate(decisions, start=1):
            _night(home, ledger, number, kept=decision == "k")
    finally:
        ledger.close()
    return home


def _night(home: NightsHome, ledger: Ledger, number: int, *, kept: bool) -> None:
    """Write one night, from its beginning to its verdict."""
    with ledger.writing() as connection:
        parent = queries.active(connection)
        night_id = history.begin_night(connection, seed=number, retry=False)
        fields = {"parent": parent.id, "cursor": number, "seed": number, "settings": {"lr": 0.1}}
        weights = changed(home.store.load_weights(parent.id), number)
        written = home.store.write(weights, None, fields)
        at = f"{DAYS[number - 1]}:00.000+00:00"
        candidate = Checkpoint(
            id=written.id, parent_id=parent.id, number=number, weights_sha256=written.weights_sha256,
            update_id=f"u{number}", state="candidate", at=at,
        )  # fmt: skip
        update = Update(
            id=f"u{number}", night_id=night_id, objective="orpo", settings={"lr": 0.1}, seed=number,
            parent_id=parent.id, checkpoint_id=written.id, steps=3, state="trained", at=at,
        )  # fmt: skip
        save(connection, [candidate])
        pairs = [_pair(f"p{number}{letter}", parent.id, night_id) for letter in "ab"]
        replay = [UpdatePair(update_id=update.id, pair_id=f"p{n}a", replay=True) for n in range(1, number)]
        new = [UpdatePair(update_id=update.id, pair_id=pair.id, replay=False) for pair in pairs]
        save(connection, [*pairs, update, *new, *replay])
        for weights_sha256, outcomes in (
            (parent.weights_sha256, "0011"),
            (written.weights_sha256, "0111"),
        ):
            save(connection, _measured(weights_sha256, number, outcomes))
        verdict = "keep" if kept else "roll back"
        save(connection, [Verdict(update_id=update.id, decision=verdict, reasons=[verdict], tests=[], at=at)])
        history.carry_out(connection, update=update, decision=verdict, reasons=[verdict])
        history.close_night(connection, night_id=night_id)
        apply(connection, Change(table="nights", where={"id": night_id}, values={"targets": ["listen"]}))
    home.ids.append(written.id)


def _pair(name: str, checkpoint_id: str, night_id: str) -> Pair:
    behaviour = "listen" if name.endswith("a") else "push_back"
    return Pair(
        id=name, behaviour=behaviour, messages=[{"role": "user", "content": "asked"}],
        chosen="good", rejected="bad", chosen_from="attempt:1", rejected_from="attempt:2",
        dream_id=None, signal_id=None, source="anna", trust=1.0,
        checkpoint_id=checkpoint_id, state="new", night_id=night_id,
    )  # fmt: skip


def _measured(weights_sha256: str, seed: int, outcomes: str) -> list[Measurement | Reading]:
    """Return the measurements and readings of these weights in the night of this seed."""
    rows = [
        Measurement(
            weights_sha256=weights_sha256,
            behaviour=name,
            definition="then",
            seed=seed,
            round=0,
            outcomes=outcomes,
        )
        for name in ("listen", "push_back")
    ]
    means = {"calm": 0.5 + 0.1 * outcomes.count("1"), "perplexity": 1.0 + 0.1 * outcomes.count("1")}
    return [
        *rows,
        *(
            Reading(weights_sha256=weights_sha256, name=n, vectors="v", mean=m, spread=0.2)
            for n, m in means.items()
        ),
    ]


def changed(weights: Mapping[str, RawTensor], number: int) -> dict[str, RawTensor]:
    """Return the weights with HEAD moved far and all of a down projection a little."""
    moved = dict(weights)
    for name, rows, by in (
        (*HEAD, 0.25 * number),
        ("model.layers.3.mlp.down_proj.weight", slice(None), 0.001 * number),
    ):
        raw = weights[name]
        numbers = np.frombuffer(raw.data, "<f4").reshape(raw.shape).copy()
        numbers[rows] += np.float32(by)
        moved[name] = RawTensor(dtype=raw.dtype, shape=raw.shape, data=numbers.tobytes())
    return moved
