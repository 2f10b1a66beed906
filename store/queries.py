"""What the agents and the loop ask of the ledger, one function a question.

Invariant: reads only, in an order that is fixed by content (ids, positions), so that whoever goes through the
rows goes through them in the same order in every run.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, Select, and_, func, or_, select

from corpus.errors import GateRefused, UnknownId
from store.ledger import schema

Row = Mapping[str, Any]


def _all(connection: Connection, query: Select[Any]) -> list[Row]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _one(connection: Connection, query: Select[Any]) -> Row | None:
    row = connection.execute(query).mappings().first()
    return dict(row) if row is not None else None


def night(connection: Connection, night_id: str) -> Row:
    """One night's row."""
    row = _one(connection, select(schema.nights).where(schema.nights.c.id == night_id))
    if row is None:
        raise UnknownId(f"there is no night {night_id}; `nightschool ledger events` lists them")
    return row


def running_night(connection: Connection) -> Row | None:
    """The night that was begun and not ended, if any."""
    return _one(connection, select(schema.nights).where(schema.nights.c.state == "running"))


def last_night(connection: Connection) -> Row | None:
    """The newest night."""
    return _one(connection, select(schema.nights).order_by(schema.nights.c.number.desc()).limit(1))


def cursor(connection: Connection) -> int:
    """Id of the newest turn; 0 for an empty ledger."""
    return int(connection.execute(select(func.max(schema.turns.c.id))).scalar() or 0)


def rates(connection: Connection) -> dict[str, Row]:
    """Failure rates by behaviour."""
    return {row["behaviour"]: row for row in _all(connection, select(schema.failure_rates))}


def dreams(connection: Connection, night_id: str, names: Sequence[str]) -> list[Row]:
    """The dreams in use of one night for these behaviours, by id."""
    t = schema.dreams
    chosen = (t.c.night_id == night_id) & t.c.behaviour.in_(names) & t.c.refused.is_(None)
    return _all(connection, select(t).where(chosen).order_by(t.c.id))


def dreamt_texts(connection: Connection) -> list[str]:
    """The requests of all dreams in use so far."""
    t = schema.dreams
    rows = connection.execute(select(t.c.messages).where(t.c.refused.is_(None)).order_by(t.c.id))
    return [messages[-1]["content"] for (messages,) in rows]


def hardest_dreams(connection: Connection, behaviour: str, limit: int) -> list[Row]:
    """Dreams of a behaviour whose own attempts failed most often, hardest first."""
    d, a = schema.dreams, schema.attempts
    failed = func.avg(1.0 * (a.c.passed == False).cast(Integer))  # noqa: E712  (SQL, not Python)
    query = (
        select(d, failed.label("failed"))
        .join(a, a.c.dream_id == d.c.id)
        .where((d.c.behaviour == behaviour) & (a.c.instructed == False))  # noqa: E712
        .group_by(d.c.id)
        .order_by(failed.desc(), d.c.id)
        .limit(limit)
    )
    return _all(connection, query)


def attempts(connection: Connection, dream_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Attempts by dream, in the order of their ids."""
    t = schema.attempts
    found: dict[str, list[Row]] = {dream_id: [] for dream_id in dream_ids}
    for row in _all(connection, select(t).where(t.c.dream_id.in_(dream_ids)).order_by(t.c.id)):
        found[row["dream_id"]].append(row)
    return found


def pairs(connection: Connection, state: str) -> list[Row]:
    """All pairs in this state, by id."""
    t = schema.pairs
    return _all(connection, select(t).where(t.c.state == state).order_by(t.c.id))


def update_of(connection: Connection, night_id: str) -> Row | None:
    """The update of a night, if it came to one."""
    return _one(connection, select(schema.updates).where(schema.updates.c.night_id == night_id))


def last_trained(connection: Connection) -> Row | None:
    """The newest update that is kept and was trained: a merge trains on nothing."""
    t = schema.updates
    trained = select(t).where((t.c.state == "kept") & (t.c.objective != "merge"))
    return _one(connection, trained.order_by(t.c.at.desc(), t.c.id.desc()).limit(1))


def pairs_of(connection: Connection, update_id: str) -> list[Row]:
    """The pairs of an update with `replay` and `unlearnt`, by id."""
    p, u = schema.pairs, schema.update_pairs
    query = (
        select(p, u.c.replay, u.c.unlearnt).join(u, u.c.pair_id == p.c.id).where(u.c.update_id == update_id)
    )
    return _all(connection, query.order_by(p.c.id))


def lost_by(connection: Connection, update_id: str) -> list[Row]:
    """What an update has lost to `forget`, one value a time: see `store.conversations.forget`."""
    e = schema.events
    told = select(e.c.body).where((e.c.kind == "forget") & (e.c.subject == update_id)).order_by(e.c.seq)
    return list(connection.execute(told).scalars())


def active(connection: Connection) -> Row:
    """The checkpoint that the last pointer names."""
    p, c = schema.pointers, schema.checkpoints
    query = select(c).join(p, p.c.checkpoint_id == c.c.id).order_by(p.c.seq.desc()).limit(1)
    row = _one(connection, query)
    if row is None:
        raise UnknownId("this home has no checkpoint yet: run `nightschool init` again")
    return row


def checkpoint(connection: Connection, checkpoint_id: str) -> Row:
    """One checkpoint, by its id, an unambiguous beginning of it, or `active` or `base`, which no id begins with."""
    t = schema.checkpoints
    if checkpoint_id == "active":
        return active(connection)
    if checkpoint_id == "base":
        return checkpoints(connection)[0]
    rows = _all(connection, select(t).where(t.c.id.startswith(checkpoint_id, autoescape=True)).limit(2))
    if len(rows) != 1 or not checkpoint_id:
        problem = "several checkpoints begin" if rows else "no checkpoint begins"
        raise UnknownId(f"{problem} with {checkpoint_id!r}; `nightschool checkpoints list` shows all")
    return rows[0]


def checkpoints(connection: Connection) -> list[Row]:
    """All checkpoints, oldest first."""
    return _all(connection, select(schema.checkpoints).order_by(schema.checkpoints.c.number))


def stored(connection: Connection) -> list[str]:
    """Ids of the checkpoints whose files are to be there, oldest first: all that were not pruned."""
    return [row["id"] for row in checkpoints(connection) if row["pruned"] is None]


def kept(connection: Connection) -> list[Row]:
    """The checkpoints that were kept and whose files are to be there, oldest first: where a rollback may go."""
    return [row for row in checkpoints(connection) if row["state"] == "kept" and row["pruned"] is None]


def require_stored(connection: Connection, row: Row) -> None:
    """Raise `GateRefused` for a checkpoint that was pruned, and name the nearest one that a rollback may go to."""
    if row["pruned"] is None:
        return
    now_active = active(connection)["id"]
    others = [other for other in kept(connection) if other["id"] != now_active]
    advice = f"only the active one ({now_active[:12]}) is there"
    if others:
        nearest = min(others, key=lambda other: (abs(other["number"] - row["number"]), other["number"]))
        advice = (
            f"beside the active one ({now_active[:12]}) the nearest that is there is {nearest['id'][:12]}"
        )
    raise GateRefused(
        f"checkpoint {row['id'][:12]} was pruned at {row['pruned']}: its weights are gone. "
        f"Nothing was changed; {advice}"
    )


def going_on(connection: Connection, states: int) -> list[str]:
    """Checkpoints from which training may go on: the active one, so many of the newest kept, and candidates."""
    rows = [row for row in checkpoints(connection) if row["pruned"] is None]
    newest = [row["id"] for row in rows if row["state"] == "kept"][-states:]
    candidates = [row["id"] for row in rows if row["state"] == "candidate"]
    return sorted({active(connection)["id"], *newest, *candidates})


def measurements(
    connection: Connection, weights_sha256: str, definitions: Mapping[str, str], seed: int
) -> dict[str, str]:
    """Outcomes by behaviour, as these are defined now: all rounds of this seed, one after the other."""
    t = schema.measurements
    query = select(t).where((t.c.weights_sha256 == weights_sha256) & (t.c.seed == seed))
    found: dict[str, str] = {}
    for row in _all(connection, query.order_by(t.c.behaviour, t.c.round)):
        if row["definition"] == definitions.get(row["behaviour"]):
            found[row["behaviour"]] = found.get(row["behaviour"], "") + row["outcomes"]
    return found


def measurement(
    connection: Connection, weights_sha256: str, behaviour: str, definition: str, seed: int, round_: int
) -> str | None:
    """Outcomes of one round, if the behaviour has been measured as it is defined now."""
    t = schema.measurements
    same = (
        (t.c.weights_sha256 == weights_sha256) & (t.c.behaviour == behaviour) & (t.c.definition == definition)
    )
    return connection.execute(
        select(t.c.outcomes).where(same & (t.c.seed == seed) & (t.c.round == round_))
    ).scalar()


def readings(connection: Connection, weights_sha256: str, vectors: str = "") -> dict[str, Row]:
    """Readings of these weights by name: those taken with these vectors, and the perplexity."""
    t = schema.readings
    taken = and_(t.c.vectors == vectors, t.c.vectors != "")
    found = select(t).where(t.c.weights_sha256 == weights_sha256, or_(t.c.name == "perplexity", taken))
    return {row["name"]: row for row in _all(connection, found)}


def read_with(connection: Connection, *weights_sha256: str) -> set[str]:
    """Digests of the vectors that readings of all of these weights were taken with."""
    t = schema.readings
    each = [
        set(connection.execute(select(t.c.vectors).where(t.c.weights_sha256 == weights)).scalars())
        for weights in weights_sha256
    ]
    return set.intersection(*each) - {""}


def is_paused(connection: Connection) -> bool:
    """Whether the user has paused the schedule."""
    t = schema.meta
    return connection.execute(select(t.c.value).where(t.c.key == "paused")).scalar() == "1"


def paused_during(connection: Connection, night_id: str) -> bool:
    """Whether the home was paused after this night had begun, and still is: then its update waits.

    A night that was begun by hand in a paused home goes on.
    """
    e = schema.events
    begun = (
        select(func.min(e.c.seq)).where((e.c.kind == "night") & (e.c.subject == night_id)).scalar_subquery()
    )
    since = select(e.c.seq).where((e.c.kind == "paused") & (e.c.seq > begun)).limit(1)
    return is_paused(connection) and connection.execute(since).first() is not None


def nights_since(connection: Connection, moment: datetime) -> int:
    """How many nights that had something to learn, or a merge to make, have begun since this moment."""
    t, u = schema.nights, schema.updates
    since = moment.isoformat(timespec="milliseconds")
    query = select(t.c.targets, u.c.id).outerjoin(u, u.c.night_id == t.c.id).where(t.c.started >= since)
    return sum(1 for targets, update_id in connection.execute(query) if targets or update_id)


def targets(connection: Connection) -> dict[str, list[str]]:
    """What the night of each update meant to improve."""
    n, u = schema.nights, schema.updates
    return {update: list(names) for update, names in connection.execute(select(u.c.id, n.c.targets).join(n))}


def update(connection: Connection, update_id: str | None) -> Row | None:
    """One update; None where there is none of this id."""
    return _one(connection, select(schema.updates).where(schema.updates.c.id == update_id))


def verdict(connection: Connection, update_id: str) -> Row | None:
    """The verdict on an update, if it came to one."""
    return _one(connection, select(schema.verdicts).where(schema.verdicts.c.update_id == update_id))


def measured(connection: Connection, weights_sha256: str) -> dict[tuple[str, str, int, int], str]:
    """Every outcome of these weights, by behaviour, definition, seed and round."""
    t = schema.measurements
    rows = _all(
        connection, select(t).where(t.c.weights_sha256 == weights_sha256).order_by(*t.primary_key.columns)
    )
    return {(row["behaviour"], row["definition"], row["seed"], row["round"]): row["outcomes"] for row in rows}


def model_digest(connection: Connection) -> str:
    """Digest of the model that checkpoint 0 came from; "" where it was not recorded."""
    return str(
        connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == "model")).scalar() or ""
    )
