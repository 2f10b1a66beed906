"""Builders of a ledger with a short history, shared by the tests of the store."""

from pathlib import Path

from sqlalchemy import Connection, select

from store import queries
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.ledger.records import (
    Checkpoint,
    Dream,
    Edge,
    Node,
    Pair,
    Record,
    Signal,
    Update,
    UpdatePair,
    identity,
    save,
)
from store.nights import history
from store.queue.outcome import Change, apply

AT = "2026-01-01T00:00:00.000+00:00"
BASE = "0" * 64


def sha(name: str) -> str:
    """Return a digest for a name, such as a checkpoint's id."""
    return identity(name) * 4


def new_ledger(place: Path, *, turns: int = 6) -> Ledger:
    """Create a ledger with checkpoint 0 and one conversation."""
    ledger = Ledger(database_url(place))
    with ledger.writing() as connection:
        history.add_base(connection, BASE, sha("base weights"))
        connection.execute(
            schema.conversations.insert().values(
                id="c1", source="anna", format="openai", key="", tail="c1", path="/logs/a.jsonl", at=AT
            )
        )
        for position in range(turns):
            connection.execute(
                schema.turns.insert().values(
                    conversation_id="c1", position=position, role="user", text=f"turn {position}",
                    path="/logs/a.jsonl", line=100 + position, chain=f"c1{position}", key="",
                )
            )  # fmt: skip
    return ledger


def a_signal(position: int, **more: object) -> Signal:
    """Return a correction of `listen` in the conversation."""
    values = {
        "id": f"s{position}", "kind": "correction", "conversation_id": "c1", "position": position,
        "source": "anna", "behaviour": "listen", "strength": 0.8, "state": "new",
        "reason": "said so", "at": AT,
    }  # fmt: skip
    return Signal(**{**values, **more})  # type: ignore[arg-type]


def a_lesson(position: int) -> list[Record]:
    """Return a signal with its episode and behaviour, joined in the graph."""
    behaviour = Node(id=identity("behaviour", "listen"), kind="behaviour", name="listen", body={})
    body = {"conversation_id": "c1", "position": position, "request": "paint the door", "source": "anna"}
    episode = Node(id=f"e{position}", kind="episode", name=f"c1:{position}", body=body)
    signal = a_signal(position)
    edge = Edge(kind="supports", tail_id=episode.id, head_id=behaviour.id, signal_id=signal.id)
    return [behaviour, episode, signal, edge]


def a_dream(name: str, night_id: str, **more: object) -> Dream:
    """Return a dream of `listen`."""
    values = {
        "id": name, "night_id": night_id, "behaviour": "listen", "temperature": 1.0, "seed": 1,
        "messages": [{"role": "user", "content": name}], "nodes": ["e2"], "source": "anna",
    }  # fmt: skip
    return Dream(**{**values, **more})  # type: ignore[arg-type]


def a_pair(name: str, night_id: str, **more: object) -> Pair:
    """Return a new pair of `listen`."""
    values = {
        "id": name, "night_id": night_id, "behaviour": "listen", "state": "new", "source": "anna",
        "trust": 1.0, "messages": [{"role": "user", "content": "asked"}],
        "chosen": "good", "rejected": "bad",
        "chosen_from": "attempt:a1", "rejected_from": "attempt:a2",
        "dream_id": None, "signal_id": None, "checkpoint_id": BASE,
    }  # fmt: skip
    return Pair(**{**values, **more})  # type: ignore[arg-type]


def a_trained_night(
    connection: Connection, *pairs: Pair, replay: tuple[str, ...] = (), seed: int = 1
) -> Update:
    """Begin a night, take up the lessons, and add a trained update that waits for its verdict."""
    night_id = history.begin_night(connection, seed=seed, retry=False)
    number = int(night_id[1:])
    new = {"state": "new", "night_id": None}
    apply(connection, Change(table="signals", where=new, values={"night_id": night_id}))
    save(connection, [a_pair(p.id, night_id) if p.night_id == "?" else p for p in pairs])
    parent = history.ancestry(connection, active(connection))[0]
    candidate = Checkpoint(
        id=sha(f"checkpoint {number}"), parent_id=parent, number=number, update_id=f"u{number}",
        weights_sha256=sha(f"weights {number}"), state="candidate", at=AT,
    )  # fmt: skip
    update = Update(
        id=f"u{number}", night_id=night_id, objective="orpo", settings={}, seed=seed, parent_id=parent,
        checkpoint_id=candidate.id, steps=4, state="trained", at=AT,
    )  # fmt: skip
    members = [UpdatePair(update_id=update.id, pair_id=pair.id, replay=False) for pair in pairs]
    members += [UpdatePair(update_id=update.id, pair_id=name, replay=True) for name in replay]
    save(connection, [candidate])  # before the update that names it
    save(connection, [update, *members])
    return update


def active(connection: Connection) -> str:
    """Return the id of the active checkpoint."""
    return str(queries.active(connection).id)


def decide(connection: Connection, update: Update, decision: str, reasons: list[str] | None = None) -> None:
    """Carry out a verdict and close the night."""
    row = queries.update_of(connection, update.night_id)
    assert row is not None
    history.carry_out(connection, update=row, decision=decision, reasons=reasons or [decision])
    history.close_night(connection, night_id=update.night_id)


def states(connection: Connection, table: str) -> dict[str, str]:
    """Return the state of every row by its id."""
    columns = schema.metadata.tables[table].c
    return {row_id: state for row_id, state in connection.execute(select(columns.id, columns.state))}
