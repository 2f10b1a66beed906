"""Reports from the ledger for users: a night's report, the status, the lists, and `why`.

Invariant: this module only reads; every figure is counted from rows, and none is stored.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, Table, func, select

from corpus.abilities import prompts as abilities
from corpus.behaviour import Behaviour
from corpus.errors import UnknownId
from corpus.json_edge import from_json
from store import graph, queries
from store.ledger import schema
from store.ledger.records import Dream, Night, Pair, Update, extend
from store.ledger.rows import all_of, first_of
from store.nights import influence
from store.nights.cost import remarks, tokens_of
from store.nights.results import (
    BeforeAfter,
    BehaviourRates,
    CheckpointListing,
    DreamForm,
    ExplainedUpdate,
    FailedWork,
    HomeStatus,
    LastNight,
    LastUpdate,
    Listing,
    LogLine,
    NightReport,
    PassCount,
    Quarantine,
    SourceDream,
    TrainedWith,
    UpdateSummary,
    WhyPair,
    WhyUpdate,
)
from store.queue import work
from store.readings import readings, sweeps
from store.task_vectors.merges import MergeSettings

SHOWN_FAILURES = 10
"""Most pieces of quarantined work that the status names."""

# ---------------------------------------------------------------- one night


def night_report(
    connection: Connection, night_id: str, behaviours: dict[str, Behaviour], definitions: Mapping[str, str]
) -> NightReport:
    """Return the report of one night: the turns that it read, and what it made and decided.

    Args:
        connection: The ledger.
        night_id: The night.
        behaviours: All measured behaviours, by name.
        definitions: The digest of each one's present definition, by name (`corpus.behaviour.definition`).
    """
    night = queries.night(connection, night_id)
    update = queries.update_of(connection, night_id)
    d, p = schema.dreams.c, schema.pairs.c
    sides = ("", "") if update is None else queries.weights_around(connection, update)
    heard = _heard(connection, night)
    taught = [] if update is None else queries.pairs_of(connection, update.id)
    tokens, pairs = tokens_of(connection, night_id), _count(connection, schema.pairs, p.night_id == night_id)
    return NightReport(
        conversations=heard[0],
        turns=heard[1],
        signals=heard[2],
        nodes=_count(connection, schema.nodes),
        dreams=_count(connection, schema.dreams, (d.night_id == night_id) & d.refused.is_(None)),
        pairs=pairs,
        reasons=[*night.reasons, *remarks(connection, night_id)],
        placements=queries.placement_trials(connection, night_id),
        updates=[] if update is None else [_update(connection, update)],
        behaviours=[
            _rates(connection, name, counter_of, sides, definitions[name], night.seed)
            for name, counter_of in (_measured(behaviours, definitions) if update is not None else [])
        ],
        retention=None if update is None else _retention(connection, sides),
        dream_forms=_dream_forms(connection, night_id),
        tokens=tokens,
        tokens_per_pair=round((tokens.dreams + tokens.attempts) / pairs, 1) if pairs else None,
        sources=influence.shares(taught),
        grown_words=[] if update is None else influence.grown_words(connection, update, sides, night.seed),
    )


def _dream_forms(connection: Connection, night_id: str) -> list[DreamForm]:
    """Return what each form of prompt has yielded in a night, over all behaviours."""
    used: Counter[str] = Counter()
    refused: dict[str, Counter[str]] = {}
    for one in queries.dream_counts(connection, night_id):
        reasons = refused.setdefault(one.form, Counter())
        if one.refused is None:
            used[one.form] += one.count
        else:
            reasons[one.refused] += one.count
    return [
        DreamForm(form=form, used=used[form], refused=dict(sorted(reasons.items())))
        for form, reasons in sorted(refused.items())
    ]


def _heard(connection: Connection, night: Night) -> tuple[int, int, int]:
    """Return the numbers of conversations, turns and signals that are new since the night before."""
    earlier = select(func.max(schema.nights.c.cursor)).where(schema.nights.c.number < night.number)
    before = connection.execute(earlier).scalar() or 0
    t, s = schema.turns, schema.signals
    new = (t.c.id > before) & (t.c.id <= night.cursor)
    at = (s.c.conversation_id == t.c.conversation_id) & (s.c.position == t.c.position)
    return (
        _scalar(connection, select(func.count(t.c.conversation_id.distinct())).where(new)),
        _count(connection, t, new),
        _scalar(connection, select(func.count()).select_from(s.join(t, at)).where(new)),
    )


def _update(connection: Connection, update: Update) -> UpdateSummary:
    """Return a summary of an update."""
    verdict = queries.verdict(connection, update.id)
    return UpdateSummary(
        id=update.id,
        objective=update.objective,
        steps=update.steps,
        pairs=len(queries.pairs_of(connection, update.id)),
        verdict=update.state if verdict is None else verdict.decision,
        checkpoint=update.checkpoint_id,
        reasons=update.reasons,
        recipe=from_json(MergeSettings, update.settings) if update.objective == "merge" else None,
        chosen=from_json(TrainedWith, update.settings["chosen"]) if "chosen" in update.settings else None,
    )


def _measured(
    behaviours: dict[str, Behaviour], definitions: Mapping[str, str]
) -> list[tuple[str, str | None]]:
    """Return (name, `counter_of`) of each behaviour, and last of the abilities if they are measured."""
    rows = [(behaviour.name, behaviour.counter_of) for behaviour in ordered(behaviours)]
    return [*rows, (abilities.NAME, None)] if abilities.NAME in definitions else rows


def _rates(
    connection: Connection,
    name: str,
    counter_of: str | None,
    sides: tuple[str, str],
    definition: str,
    seed: int,
) -> BehaviourRates:
    """Return a behaviour's pass counts before and after an update, on the scenarios measured both times.

    Args:
        connection: The ledger.
        name: The behaviour.
        counter_of: For a counter-behaviour, its behaviour.
        sides: The digests of the weights before and after.
        definition: The digest of the behaviour's definition.
        seed: The seed of the night.
    """
    outcomes = [
        "".join(queries.batches(connection, weights, name, definition, seed).values()) for weights in sides
    ]
    if all(outcomes):
        shared = min(map(len, outcomes))
        outcomes = [one[:shared] for one in outcomes]
    before, after = (PassCount(passed=one.count("1"), trials=len(one)) if one else None for one in outcomes)
    return BehaviourRates(name=name, counter_of=counter_of, before=before, after=after)


def ordered(behaviours: dict[str, Behaviour]) -> list[Behaviour]:
    """Return the behaviours sorted by name, each with its counter-behaviour after it."""
    return sorted(behaviours.values(), key=lambda b: (b.counter_of or b.name, b.counter_of is not None))


def _retention(connection: Connection, sides: tuple[str, str]) -> BeforeAfter:
    """Return the perplexity on held-out ordinary text; `sides` are the weights before and after."""
    before, after = queries.perplexity_pair(connection, *sides)
    return BeforeAfter(before=before, after=after)


# ---------------------------------------------------------------- the home


def status(connection: Connection) -> HomeStatus:
    """Return the state of the home: the active checkpoint, the queue, the last update and the last night."""
    active, night = queries.active(connection), queries.last_night(connection)
    newest = select(schema.updates).order_by(schema.updates.c.at.desc()).limit(1)
    update = first_of(connection, Update, newest)
    return HomeStatus(
        checkpoint=active.id,
        weights_sha256=active.weights_sha256,
        weights_version=_count(connection, schema.pointers),
        conversations=_count(connection, schema.conversations),
        turns=_count(connection, schema.turns),
        queue=work.counts(connection, "ready"),
        set_aside=_quarantine(connection),
        last_update=None
        if update is None
        else extend(LastUpdate, _update(connection, update), state=update.state),
        last_night=None
        if night is None
        else LastNight(
            id=night.id,
            state=night.state,
            reasons=night.reasons,
            started=night.started,
            finished=night.finished,
        ),
    )


def _quarantine(connection: Connection) -> Quarantine:
    """Return the number of quarantined lines, and the newest pieces of quarantined work."""
    w = schema.work.c
    newest = select(w.kind, w.subject, w.error).where(w.state == "set_aside").order_by(w.id.desc())
    failed = all_of(connection, FailedWork, newest.limit(SHOWN_FAILURES))
    return Quarantine(lines=_count(connection, schema.set_aside_lines), work=failed)


LISTS = {
    "conversations": (schema.conversations, ("id", "source", "format", "path", "at")),
    "updates": (schema.updates, ("id", "state", "objective", "steps", "checkpoint_id", "reasons", "at")),
    "pairs": (schema.pairs, ("id", "behaviour", "state", "messages", "chosen", "rejected", "source")),
    "dreams": (schema.dreams, ("id", "behaviour", "temperature", "messages", "source", "form", "refused")),
    "signals": (schema.signals, ("id", "kind", "behaviour", "state", "source", "strength", "reason")),
    "events": (schema.events, ("seq", "kind", "subject", "body", "at")),
}
"""The table and the shown columns of each list that a user may ask for."""


def listing(connection: Connection, name: str, limit: int) -> Listing:
    """Return the newest rows of a list, at most `limit`, the oldest of them first.

    Args:
        connection: The ledger.
        name: A key of LISTS.
        limit: Most rows.
    """
    table, columns = LISTS[name]
    order = table.c.seq if "seq" in table.c else table.c.at if "at" in table.c else table.c.id
    query = select(*(table.c[column] for column in columns)).order_by(order.desc()).limit(limit)
    return Listing(columns=columns, rows=[tuple(row) for row in connection.execute(query)][::-1])


def checkpoint_list(connection: Connection) -> list[CheckpointListing]:
    """Return all checkpoints, oldest first."""
    active, targets = queries.active(connection).id, queries.targets(connection)
    return [
        extend(CheckpointListing, row, active=row.id == active, targets=targets.get(row.update_id or "", []))
        for row in queries.checkpoints(connection)
    ]


# ---------------------------------------------------------------- why


def why(connection: Connection, wanted: str) -> WhyUpdate | WhyPair:
    """Return an update or a pair with everything that it was made from, back to the log lines.

    Args:
        connection: The ledger.
        wanted: Id of an update or a pair.
    """
    update = queries.update(connection, wanted)
    if update is not None:
        return _why_update(connection, update)
    pair = first_of(connection, Pair, select(schema.pairs).where(schema.pairs.c.id == wanted))
    if pair is None:
        raise UnknownId(f"no update or pair has the id {wanted!r}; `nightschool ledger updates` lists them")
    return _why_pair(connection, pair)


def _why_update(connection: Connection, update: Update) -> WhyUpdate:
    """Return an update with its pairs, and each log line behind the pairs once."""
    pairs = [_why_pair(connection, pair) for pair in queries.pairs_of(connection, update.id)]
    lines = {(line.path, line.line): line for pair in pairs for line in pair.log_lines}
    explained = extend(
        ExplainedUpdate,
        _update(connection, update),
        forgotten=sum(lost.pairs for lost in queries.lost_by(connection, update.id)),
        moves=readings.moves_of(connection, update.id),
        abilities=_abilities(connection, update.id),
    )
    return WhyUpdate(
        update=explained,
        pairs=pairs,
        predictions=sweeps.of_update(connection, update.id),
        log_lines=[lines[place] for place in sorted(lines)],
    )


def _abilities(connection: Connection, update_id: str) -> BehaviourRates | None:
    """Return the abilities' pass counts before and after an update, over all rounds of its verdict.

    Returns:
        None if the verdict has no test of the abilities.
    """
    verdict = queries.verdict(connection, update_id)
    for test in [] if verdict is None else verdict.tests:
        if test.get("behaviour") == abilities.NAME:
            sides = (PassCount(passed=test[side], trials=test["trials"]) for side in ("before", "after"))
            before, after = sides
            return BehaviourRates(name=abilities.NAME, counter_of=None, before=before, after=after)
    return None


def _why_pair(connection: Connection, pair: Pair) -> WhyPair:
    """Return a pair with its dream and the log lines behind them."""
    of_dream = select(schema.dreams).where(schema.dreams.c.id == pair.dream_id)
    dream = first_of(connection, Dream, of_dream)
    origins = [o for node in (dream.nodes if dream else []) for o in _of_episode(connection, node)]
    if pair.signal_id:
        origins += graph.origins_of_signal(connection, pair.signal_id)
    if not origins:  # the dream grew from declared examples: the night's own lessons are the origin
        taken_up = graph.lessons_of(connection, pair.night_id)
        origins = [o for signal, _ in taken_up for o in graph.origins_of_signal(connection, signal.id)]
    return WhyPair(
        id=pair.id,
        behaviour=pair.behaviour,
        state=pair.state,
        messages=pair.messages,
        chosen=pair.chosen,
        rejected=pair.rejected,
        chosen_from=pair.chosen_from,
        rejected_from=pair.rejected_from,
        dream=None if dream is None else _source(dream),
        log_lines=[
            LogLine(path=o.path, line=o.line, kind=o.kind, source=o.source, text=o.text) for o in origins
        ],
    )


def _source(dream: Dream) -> SourceDream:
    """Return a summary of a dream."""
    return SourceDream(
        id=dream.id,
        behaviour=dream.behaviour,
        temperature=dream.temperature,
        seed=dream.seed,
        nodes=dream.nodes,
    )


def _of_episode(connection: Connection, node_id: str) -> list[graph.Origin]:
    """Return the log lines that an episode came from; [] for a node of another kind.

    A behaviour's node is connected to every line about the behaviour, so its lines explain nothing.
    """
    node = graph.get(connection, node_id)
    return graph.provenance(connection, node_id) if node is not None and node.kind == "episode" else []


def _count(connection: Connection, table: Table, where: Any = None) -> int:
    """Return the number of rows of a table, all or only those that match `where`."""
    query = select(func.count()).select_from(table)
    return _scalar(connection, query if where is None else query.where(where))


def _scalar(connection: Connection, query: Select[Any]) -> int:
    """Return the one number that a query selects; 0 if there is none."""
    return int(connection.execute(query).scalar() or 0)
