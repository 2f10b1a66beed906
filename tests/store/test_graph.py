"""The memory graph in a real ledger: merging, reading and provenance."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from store import graph
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.ledger.records import Edge, Node, Signal, identity
from store.queue.outcome import Change, apply

AT = "2026-01-01T00:00:00.000+00:00"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    ledger = Ledger(database_url(tmp_path))
    with ledger.writing() as writing:
        for number, name in enumerate(("one", "two"), start=1):
            writing.execute(
                schema.conversations.insert().values(
                    id=name,
                    source=f"user {name}",
                    format="openai",
                    key="",
                    tail=name,
                    path="log.jsonl",
                    at=AT,
                )
            )
            for position in range(4):
                writing.execute(
                    schema.turns.insert().values(
                        conversation_id=name, position=position, role="user", text=f"turn {position}",
                        path="log.jsonl", line=10 * number + position, chain=f"{name}{position}", key="",
                    )
                )  # fmt: skip
        yield writing
    ledger.close()


def node(kind: str, name: str, **more: object) -> Node:
    return Node(id=identity(kind, name), kind=kind, name=name, body=more.pop("body", {}), **more)  # type: ignore[arg-type]


def signal(
    conversation: str = "one", position: int = 2, *, state: str = "new", strength: float = 0.8
) -> Signal:
    return Signal(
        id=identity(conversation, position, "correction"), kind="correction", conversation_id=conversation,
        position=position, source=f"user {conversation}", behaviour="listen", strength=strength, state=state,
        reason="said so", at=AT,
    )  # fmt: skip


def episode(conversation: str = "one", position: int = 2, **more: object) -> Node:
    body = {
        "request": "turn",
        "source": f"user {conversation}",
        "conversation_id": conversation,
        "position": position,
    }
    return node("episode", f"{conversation}:{position}", body={**body, **more}, weight=0.5)


def extraction(conversation: str = "one", position: int = 2, **more: object) -> list[Signal | Node | Edge]:
    """Return the records of an extraction: a behaviour, an episode, a feeling, a signal and their edges."""
    listen, feeling = node("behaviour", "listen"), node("feeling", "frustrated", weight=0.0)
    lesson, scene = signal(conversation, position), episode(conversation, position, **more)
    return [
        Edge(kind="supports", tail_id=scene.id, head_id=listen.id, signal_id=lesson.id),
        Edge(kind="shows", tail_id=scene.id, head_id=feeling.id, signal_id=lesson.id),
        lesson, scene, feeling, listen,
    ]  # fmt: skip


def weight(connection: Connection, kind: str, name: str) -> float:
    stored = graph.get(connection, identity(kind, name))
    assert stored is not None
    return stored.weight


def everything(connection: Connection) -> list[object]:
    tables = (schema.nodes, schema.edges, schema.signals)
    return [
        tuple(row)
        for table in tables
        for row in connection.execute(select(table).order_by(*table.primary_key))
    ]


def test_an_extraction_merged_twice_counts_once(connection: Connection) -> None:
    graph.merge(connection, extraction())
    once = everything(connection)
    graph.merge(connection, extraction())
    assert everything(connection) == once
    assert weight(connection, "behaviour", "listen") == 1.8


def test_every_new_supporting_signal_adds_its_strength(connection: Connection) -> None:
    for conversation, position in (("one", 1), ("one", 2), ("two", 2)):
        graph.merge(connection, extraction(conversation, position))
    assert weight(connection, "behaviour", "listen") == pytest.approx(1 + 3 * 0.8)
    assert weight(connection, "feeling", "frustrated") == pytest.approx(3 * 0.8)


def test_the_strongest_feeling_is_kept(connection: Connection) -> None:
    for score in (0.4, 0.9, 0.2):
        graph.merge(
            connection, [node("behaviour", "listen", feelings={"tired": score, f"at {score}": score})]
        )
    behaviour = graph.get(connection, identity("behaviour", "listen"))
    assert behaviour is not None
    assert behaviour.feelings == {"tired": 0.9, "at 0.4": 0.4, "at 0.9": 0.9, "at 0.2": 0.2}


def test_a_body_is_filled_where_it_was_empty_and_never_overwritten(connection: Connection) -> None:
    graph.merge(connection, [episode(better="", answer="first")])
    graph.merge(connection, [episode(better="came later", answer="second")])
    stored = graph.get(connection, episode().id)
    assert stored is not None
    assert (stored.body["better"], stored.body["answer"]) == ("came later", "first")


def test_a_learnt_or_undone_signal_is_not_made_new_by_another_extraction(connection: Connection) -> None:
    for state in ("learnt", "undone"):
        graph.merge(connection, extraction())
        apply(connection, Change(table="signals", where={"id": signal().id}, values={"state": state}))
        graph.merge(connection, extraction())
        assert connection.execute(select(schema.signals.c.state)).scalars().all() == [state]
        assert graph.new_lessons(connection, 99) == []


def test_new_lessons_end_at_the_cursor_and_are_ordered_by_id(connection: Connection) -> None:
    for conversation, position in (("one", 1), ("one", 3), ("two", 2)):
        graph.merge(connection, extraction(conversation, position))
    lessons = graph.new_lessons(connection, 99)
    assert [lesson.id for lesson, _ in lessons] == sorted(lesson.id for lesson, _ in lessons)
    assert {(scene.body["conversation_id"], scene.body["position"]) for _, scene in lessons} == {
        ("one", 1), ("one", 3), ("two", 2),
    }  # fmt: skip
    assert [lesson.position for lesson, _ in graph.new_lessons(connection, 2)] == [1]
    assert graph.new_lessons(connection, 1) == []


def test_a_refused_signal_or_one_without_a_behaviour_is_not_a_lesson(connection: Connection) -> None:
    refused = signal(position=1, state="refused")
    graph.merge(connection, [refused, signal(position=3, state="noted"), node("behaviour", "listen")])
    assert graph.new_lessons(connection, 99) == []


def test_lessons_of_a_night_are_those_that_it_took_up(connection: Connection) -> None:
    graph.merge(connection, extraction("one", 1))
    graph.merge(connection, extraction("two", 2))
    apply(connection, Change(table="signals", where={"id": signal("two", 2).id}, values={"night_id": "n1"}))
    assert [scene.name for _, scene in graph.lessons_of(connection, "n1")] == ["two:2"]


def test_the_episode_with_the_strongest_feeling_comes_first(connection: Connection) -> None:
    calm, cross = extraction("one", 1), extraction("two", 2)
    scene = next(r for r in cross if isinstance(r, Node) and r.kind == "episode")
    upset = node("episode", scene.name, body=scene.body, weight=scene.weight, feelings={"frustrated": 0.6})
    graph.merge(connection, calm)
    graph.merge(connection, [upset if record is scene else record for record in cross])
    assert [scene.name for scene in graph.episodes(connection, "listen")] == ["two:2", "one:1"]
    assert graph.episodes(connection, "brief") == []


def test_the_episode_of_a_refused_signal_seeds_no_dream(connection: Connection) -> None:
    records = [signal(state="refused") if isinstance(r, Signal) else r for r in extraction()]
    graph.merge(connection, records)
    assert graph.episodes(connection, "listen") == []


def test_a_contradiction_is_stored_without_changing_the_behaviour(connection: Connection) -> None:
    graph.merge(connection, extraction("one", 1))
    scene, objection = episode("two", 2), signal("two", 2, state="noted")
    against = Edge(
        kind="contradicts", tail_id=scene.id, head_id=identity("behaviour", "listen"), signal_id=objection.id
    )
    graph.merge(connection, [scene, objection, against])
    (standing,) = graph.behaviours(connection)
    assert (standing.supports, standing.contradictions, standing.proposed) == (1, 1, False)
    assert weight(connection, "behaviour", "listen") == 1.8


def test_a_node_is_traced_to_the_lines_of_the_log(connection: Connection) -> None:
    graph.merge(connection, extraction("one", 1))
    graph.merge(connection, extraction("two", 2))
    origins = graph.provenance(connection, identity("behaviour", "listen"))
    assert [(o.path, o.line, o.source) for o in origins] == [
        ("log.jsonl", 11, "user one"),
        ("log.jsonl", 22, "user two"),
    ]
    assert [o.line for o in graph.provenance(connection, episode("two", 2).id)] == [22]
    assert graph.provenance(connection, "nobody knows it") == []


def fact(value: str, position: int) -> list[Node | Edge]:
    statement = node(
        "episode",
        f"one:{position}:told",
        body={"conversation_id": "one", "position": position, "source": "u"},
    )
    body = {"text": f"my name is {value}", "subject": "name", "source": "user one"}
    known = node("fact", f"user one: my name is {value}", body=body, weight=0.0)
    return [statement, known, Edge(kind="about", tail_id=known.id, head_id=statement.id)]


def test_contradicting_facts_are_both_stored(connection: Connection) -> None:
    graph.merge(connection, fact("anna", 1))
    graph.merge(connection, fact("emma", 3))
    graph.merge(connection, fact("emma", 3))
    kinds = connection.execute(select(schema.edges.c.kind).order_by(schema.edges.c.kind)).scalars().all()
    assert kinds == ["about", "about", "contradicts"]
    assert [o.line for o in graph.provenance(connection, identity("fact", "user one: my name is emma"))] == [
        13
    ]


def test_a_proposed_behaviour_becomes_declared_when_a_user_declares_it(connection: Connection) -> None:
    graph.merge(connection, [node("behaviour", "polite", body={"proposed": True, "do": "say please"})])
    assert [standing.proposed for standing in graph.behaviours(connection)] == [True]
    graph.merge(connection, [node("behaviour", "polite", body={"proposed": False, "do": "be polite"})])
    (standing,) = graph.behaviours(connection)
    assert (standing.proposed, standing.node.body["do"]) == (False, "be polite")
