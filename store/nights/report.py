"""What a user is told about the ledger: a night's report, the status, the lists, and `why`.

Invariant: reads only; every figure is counted from rows, none is remembered. Returns plain JSON-able values.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, func, select

from corpus.aliases import Json
from corpus.behaviour import Behaviour
from corpus.errors import UnknownId
from store import graph, queries
from store.ledger import schema
from store.queue import work
from store.readings import readings, sweeps


def night_report(
    connection: Connection, night_id: str, behaviours: dict[str, Behaviour], definitions: Mapping[str, str]
) -> Json:
    """What one night heard, made and decided; the commands add how long it took.

    definitions: of each behaviour as it is measured now (`corpus.behaviour.definition`).
    """
    night = queries.night(connection, night_id)
    update = queries.update_of(connection, night_id)
    heard = _heard(connection, night)
    return {
        **heard,
        "nodes": _count(connection, schema.nodes),
        "dreams": _count(
            connection,
            schema.dreams,
            (schema.dreams.c.night_id == night_id) & schema.dreams.c.refused.is_(None),
        ),
        "pairs": _count(connection, schema.pairs, schema.pairs.c.night_id == night_id),
        "reasons": list(night["reasons"]),
        "updates": [] if update is None else [_update(connection, update)],
        "behaviours": []
        if update is None
        else _before_after(connection, night, update, behaviours, definitions),
        "retention": None if update is None else _retention(connection, update),
    }


def _heard(connection: Connection, night: queries.Row) -> Json:
    """Conversations, turns and signals since the night before."""
    before = connection.execute(
        select(func.max(schema.nights.c.cursor)).where(schema.nights.c.number < night["number"])
    ).scalar()
    turns, signals = schema.turns, schema.signals
    new = (turns.c.id > (before or 0)) & (turns.c.id <= night["cursor"])
    at = (signals.c.conversation_id == turns.c.conversation_id) & (signals.c.position == turns.c.position)
    return {
        "conversations": int(
            connection.execute(select(func.count(turns.c.conversation_id.distinct())).where(new)).scalar()
            or 0
        ),
        "turns": _count(connection, turns, new),
        "signals": int(
            connection.execute(select(func.count()).select_from(signals.join(turns, at)).where(new)).scalar()
            or 0
        ),
    }


def _update(connection: Connection, update: queries.Row) -> Json:
    verdict = connection.execute(
        select(schema.verdicts.c.decision).where(schema.verdicts.c.update_id == update["id"])
    ).scalar()
    return {
        "id": update["id"],
        "objective": update["objective"],
        "steps": update["steps"],
        "pairs": len(queries.pairs_of(connection, update["id"])),
        "verdict": verdict or update["state"],
        "checkpoint": update["checkpoint_id"],
        "reasons": list(update["reasons"]),
        **({"recipe": update["settings"]} if update["objective"] == "merge" else {}),
    }


def _before_after(
    connection: Connection,
    night: queries.Row,
    update: queries.Row,
    behaviours: dict[str, Behaviour],
    definitions: Mapping[str, str],
) -> list[Json]:
    """Pass rates of the first round: the one that `behaviours measure` with this seed repeats."""
    sides = []
    for checkpoint_id in (update["parent_id"], update["checkpoint_id"]):
        weights = queries.checkpoint(connection, checkpoint_id)["weights_sha256"] if checkpoint_id else ""
        sides.append(weights)

    def passed(weights_sha256: str, name: str) -> Json | None:
        outcomes = queries.measurement(connection, weights_sha256, name, definitions[name], night["seed"], 0)
        return None if outcomes is None else {"passed": outcomes.count("1"), "trials": len(outcomes)}

    return [
        {
            "name": behaviour.name,
            "counter_of": behaviour.counter_of,
            "before": passed(sides[0], behaviour.name),
            "after": passed(sides[1], behaviour.name),
        }
        for behaviour in ordered(behaviours)
    ]


def ordered(behaviours: dict[str, Behaviour]) -> list[Behaviour]:
    """Each behaviour with its counter-behaviour after it."""
    return sorted(behaviours.values(), key=lambda b: (b.counter_of or b.name, b.counter_of is not None))


def _retention(connection: Connection, update: queries.Row) -> Json:
    """Perplexity on held-out ordinary text before and after."""
    sides = {}
    for side, checkpoint_id in (("before", update["parent_id"]), ("after", update["checkpoint_id"])):
        weights = queries.checkpoint(connection, checkpoint_id)["weights_sha256"] if checkpoint_id else ""
        reading = queries.readings(connection, weights).get("perplexity")
        sides[side] = reading["mean"] if reading else None
    return sides


def status(connection: Connection) -> Json:
    """Where the home stands; the service adds why no update is due."""
    active = queries.active(connection)
    updates = connection.execute(select(schema.updates).order_by(schema.updates.c.at.desc()).limit(1))
    last = updates.mappings().first()
    night = queries.last_night(connection)
    return {
        "checkpoint": active["id"],
        "weights_sha256": active["weights_sha256"],
        "weights_version": _count(connection, schema.pointers),
        "conversations": _count(connection, schema.conversations),
        "turns": _count(connection, schema.turns),
        "queue": work.counts(connection, "ready"),
        "set_aside": _set_aside(connection),
        "last_update": {**_update(connection, dict(last)), "state": last["state"]} if last else None,
        "last_night": {k: night[k] for k in ("id", "state", "reasons", "started", "finished")}
        if night
        else None,
    }


def _set_aside(connection: Connection) -> Json:
    """Lines and work that could not be used, with the newest errors."""
    failed = select(schema.work).where(schema.work.c.state == "set_aside").order_by(schema.work.c.id.desc())
    return {
        "lines": _count(connection, schema.set_aside_lines),
        "work": [
            {"kind": row["kind"], "subject": row["subject"], "error": row["error"]}
            for row in connection.execute(failed.limit(10)).mappings()
        ],
    }


LISTS = {
    "conversations": (schema.conversations, ("id", "source", "format", "path", "at")),
    "updates": (schema.updates, ("id", "state", "objective", "steps", "checkpoint_id", "reasons", "at")),
    "pairs": (schema.pairs, ("id", "behaviour", "state", "messages", "chosen", "rejected", "source")),
    "dreams": (schema.dreams, ("id", "behaviour", "temperature", "messages", "source", "refused")),
    "signals": (schema.signals, ("id", "kind", "behaviour", "state", "source", "strength", "reason")),
    "events": (schema.events, ("seq", "kind", "subject", "body", "at")),
}


def checkpoint_list(connection: Connection) -> Json:
    """All checkpoints, oldest first, with the active one marked and what each one's night meant to improve."""
    active = queries.active(connection)["id"]
    keys = ("number", "id", "parent_id", "weights_sha256", "update_id", "state", "at", "pinned", "pruned")
    targets = queries.targets(connection)
    return {
        "checkpoints": [
            {
                **{k: row[k] for k in keys},
                "active": row["id"] == active,
                "targets": targets.get(row["update_id"], []),
            }
            for row in queries.checkpoints(connection)
        ]
    }


def listing(connection: Connection, name: str, limit: int) -> list[Json]:
    """The newest rows of one list, oldest of them first."""
    table, columns = LISTS[name]
    order = table.c.seq if "seq" in table.c else table.c.at if "at" in table.c else table.c.id
    query = select(*(table.c[column] for column in columns)).order_by(order.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()][::-1]


def why(connection: Connection, wanted: str) -> Json:
    """From an update or a pair back to the log lines that it grew from."""
    update = (
        connection.execute(select(schema.updates).where(schema.updates.c.id == wanted)).mappings().first()
    )
    if update is not None:
        pairs = [_why_pair(connection, row) for row in queries.pairs_of(connection, wanted)]
        lines = {(line["path"], line["line"]): line for pair in pairs for line in pair["log_lines"]}
        forgotten = sum(lost["pairs"] for lost in queries.lost_by(connection, wanted))
        more = {"forgotten": forgotten, "moves": readings.moves_of(connection, wanted)}
        told = {**_update(connection, dict(update)), **more}
        foretold, found = sweeps.of_update(connection, wanted), [lines[key] for key in sorted(lines)]
        return {"update": told, "pairs": pairs, "predictions": foretold, "log_lines": found}
    pair = connection.execute(select(schema.pairs).where(schema.pairs.c.id == wanted)).mappings().first()
    if pair is None:
        raise UnknownId(f"no update or pair has the id {wanted!r}; `nightschool ledger updates` lists them")
    return _why_pair(connection, dict(pair))


def _why_pair(connection: Connection, pair: queries.Row) -> Json:
    """One pair with its dream, its nodes and the lines behind them."""
    dream = None
    if pair["dream_id"]:
        row = (
            connection.execute(select(schema.dreams).where(schema.dreams.c.id == pair["dream_id"]))
            .mappings()
            .one()
        )
        dream = {key: row[key] for key in ("id", "behaviour", "temperature", "seed", "nodes")}
    origins = [o for node in (dream["nodes"] if dream else []) for o in _of_episode(connection, node)]
    if pair["signal_id"]:
        origins += graph.origins_of_signal(connection, pair["signal_id"])
    if not origins:  # it grew from declared examples, because the night had taken up these lessons
        taken_up = graph.lessons_of(connection, pair["night_id"])
        origins = [o for signal, _ in taken_up for o in graph.origins_of_signal(connection, signal.id)]
    lines = [{key: getattr(o, key) for key in ("path", "line", "kind", "source", "text")} for o in origins]
    keys = ("id", "behaviour", "state", "messages", "chosen", "rejected", "chosen_from", "rejected_from")
    return {**{key: pair[key] for key in keys}, "dream": dream, "log_lines": lines}


def _of_episode(connection: Connection, node_id: str) -> list[graph.Origin]:
    """The log lines of an episode; a behaviour's own node touches every line that ever spoke of it."""
    node = graph.get(connection, node_id)
    return graph.provenance(connection, node_id) if node is not None and node.kind == "episode" else []


def _count(connection: Connection, table: Table, where: Any = None) -> int:
    query = select(func.count()).select_from(table)
    return int(connection.execute(query if where is None else query.where(where)).scalar() or 0)
