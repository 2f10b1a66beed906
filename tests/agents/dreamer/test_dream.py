"""Dreams of the shipped model: sampled, checked, and traced to their origin."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.dreamer import filters
from agents.dreamer.dream import Dreamer, _hardest
from agents.dreamer.novelty import NEAR
from agents.dreamer.plan import DECLARED, DreamOrigin, _draw
from agents.dreamer.rounds import DreamSettings
from agents.evaluator import judge
from agents.evaluator.measure import Evaluator
from agents.model.client import ModelClient
from agents.model.internals import LogProb
from corpus.behaviour import SHIPPED, load
from corpus.text import jaccard, word_set
from store import queries
from store.graph import merge
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.ledger.records import Attempt, Dream, Edge, Node, Signal, identity, save
from store.nights import history
from store.queue.outcome import Change, Outcome, apply
from store.queue.work import Work

AT = "2026-01-01T00:00:00.000+00:00"
BEHAVIOURS = load([SHIPPED])
SETTINGS = DreamSettings(per_night=24, guards=10)
Served = Callable[[Callable[[ModelClient], Awaitable[Any]]], Any]
Dreaming = Callable[..., list[Dream]]


def lesson(connection: Any, source: str, number: int, request: str) -> None:
    """Store a correction in a log, with its episode."""
    name = f"{source}{number}"
    connection.execute(
        schema.conversations.insert().values(
            id=name, source=source, format="openai", key="", tail=name, path="/logs/a", at=AT
        )
    )
    body = {"conversation_id": name, "position": 0, "request": request, "source": source}
    episode = Node(id=f"e-{name}", kind="episode", name=f"{name}:0", body=body)
    listen = Node(id=identity("behaviour", "listen"), kind="behaviour", name="listen", body={})
    signal = Signal(
        id=f"s-{name}", kind="correction", conversation_id=name, position=0, source=source,
        behaviour="listen", strength=0.8, state="new", reason="said so", night_id="n1", at=AT,
    )  # fmt: skip
    merge(
        connection,
        [
            listen,
            episode,
            signal,
            Edge(kind="supports", tail_id=episode.id, head_id=listen.id, signal_id=signal.id),
        ],
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Begin a night that is to improve `listen`, after three corrections by two users."""
    ledger = Ledger(database_url(tmp_path))
    with ledger.writing() as connection:
        history.add_base(connection, "0" * 64, "0" * 64)
        history.begin_night(connection, seed=1, retry=False)
        apply(connection, Change(table="nights", where={"id": "n1"}, values={"targets": ["listen"]}))
        lesson(connection, "anna", 1, "I have decided to paint the plank.")
        lesson(connection, "anna", 2, "We will wax the tile.")
        lesson(connection, "boris", 1, "Let us clean the lamp.")
    yield ledger
    ledger.close()


@pytest.fixture
def dreaming(shipped: Served, ledger: Ledger, quiet: Any) -> Dreaming:
    """Do one piece of work of kind `dream` through the served model; save and return its dreams."""

    def dream(subject: str, settings: DreamSettings = SETTINGS, **more: Any) -> list[Dream]:
        async def handle(model: ModelClient) -> Outcome:
            dreamer = Dreamer(
                ledger=ledger,
                model=model,
                behaviours=BEHAVIOURS,
                situations=Evaluator(model=model),
                settings=settings,
                **more,
            )
            return await dreamer.handle(
                Work(id=1, kind="dream", subject=subject, night_id="n1", attempts=0), quiet
            )

        outcome: Outcome = shipped(handle)
        with ledger.writing() as connection:
            save(connection, outcome.records)
        return [record for record in outcome.records if isinstance(record, Dream)]

    return dream


def used(dreams: list[Dream], behaviour: str) -> list[Dream]:
    return [dream for dream in dreams if dream.behaviour == behaviour and dream.refused is None]


def test_a_behaviour_is_never_dreamt_without_its_counter_behaviour(dreaming: Dreaming) -> None:
    dreams = dreaming("listen")
    assert len(used(dreams, "listen")) == 24
    assert len(used(dreams, "push_back")) == round(24 * SETTINGS.counter_share)


def test_a_counter_behaviour_is_dreamt_by_itself(dreaming: Dreaming) -> None:
    dreams = dreaming("thorough")
    assert {dream.behaviour for dream in dreams} == {"thorough"}
    assert len(used(dreams, "thorough")) == SETTINGS.guards


def test_every_dream_in_use_tests_its_behaviour_is_new_and_is_not_reserved(
    dreaming: Dreaming,
) -> None:
    dreams = [dream for dream in dreaming("listen") if dream.refused is None]
    for dream in dreams:
        assert judge.applies(BEHAVIOURS[dream.behaviour], dream.messages), dream
        assert not judge.is_reserved(dream.messages), dream
    texts = [word_set(dream.messages[-1]["content"]) for dream in dreams]
    assert not [(a, b) for i, a in enumerate(texts) for b in texts[:i] if jaccard(a, b) >= NEAR]


def test_a_refused_dream_is_stored_with_its_reason(dreaming: Dreaming) -> None:
    reasons = Counter(str(dream.refused) for dream in dreaming("listen") if dream.refused is not None)
    assert reasons["kept for measuring"] > 0 and reasons["seen before"] > 0, reasons


def test_a_dream_has_the_nodes_and_the_source_of_its_origin(dreaming: Dreaming) -> None:
    nodes = {"e-anna1": "anna", "e-anna2": "anna", "e-boris1": "boris"}
    declared = {identity("behaviour", name) for name in ("listen", "push_back")}
    sources = Counter[str]()
    for dream in dreaming("listen"):
        assert dream.nodes and set(dream.nodes) <= nodes.keys() | declared
        grown = {nodes[node] for node in dream.nodes if node in nodes}
        assert grown == {dream.source} if dream.behaviour == "listen" else dream.source == DECLARED
        sources[dream.source] += 1
    assert min(sources["anna"], sources["boris"], sources[DECLARED]) > 0


def test_a_dream_from_a_dream_has_all_its_nodes(ledger: Ledger) -> None:
    """Forgetting an episode must find everything that grew from it, through any number of dreams."""
    nodes = sorted([identity("behaviour", "listen"), "e-anna1"])
    first = Dream(
        id="d1", night_id="n1", behaviour="listen", messages=[{"role": "user", "content": "Paint it."}],
        temperature=1.0, seed=1, nodes=nodes, source="anna",
    )  # fmt: skip
    failed = Attempt(
        id="a1", dream_id="d1", text="Why?", instructed=False, temperature=1.0, seed=1,
        checkpoint_id="0" * 64, passed=False, reason="",
    )  # fmt: skip
    with ledger.writing() as connection:
        save(connection, [first, failed])
        (origin,) = _hardest(connection, BEHAVIOURS["listen"])
    assert origin == DreamOrigin(text="Paint it.", nodes=tuple(nodes), source="anna")


def test_an_origin_is_drawn_in_proportion_to_its_weight_and_deterministically() -> None:
    origins = [
        DreamOrigin(text=text, nodes=(), source="", weight=weight)
        for text, weight in (("a", 1.5), ("b", 1.0))
    ]
    drawn = [[_draw(origins, rng).text for _ in range(5000)] for rng in (random.Random(3), random.Random(3))]
    assert drawn[0] == drawn[1] and drawn[0].count("a") / 5000 == pytest.approx(0.6, abs=0.03)


def test_no_source_has_more_dreams_than_its_cap(dreaming: Dreaming) -> None:
    dreams = dreaming("listen", replace(SETTINGS, per_source=5))
    counted = Counter(dream.source for dream in used(dreams, "listen"))
    assert counted["anna"] == counted["boris"] == 5
    assert any(str(dream.refused).startswith("over the cap of 5") for dream in dreams)


def test_the_same_night_gives_the_same_dreams_and_another_seed_gives_others(
    dreaming: Dreaming, ledger: Ledger
) -> None:
    def again() -> list[Dream]:
        with ledger.writing() as connection:
            connection.execute(schema.dreams.delete())
        return dreaming("thorough")

    first = again()
    assert again() == first
    with ledger.writing() as connection:
        apply(connection, Change(table="nights", where={"id": "n1"}, values={"seed": 2}))
    assert {d.messages[0]["content"] for d in again()} != {d.messages[0]["content"] for d in first}


def test_no_situation_is_dreamt_twice(dreaming: Dreaming, ledger: Ledger) -> None:
    first = {dream.messages[0]["content"] for dream in used(dreaming("thorough"), "thorough")}
    with ledger.writing() as connection:
        history.close_night(connection, night_id="n1")
        apply(connection, Change(table="nights", where={"id": "n1"}, values={"seed": 5}))
    second = {dream.messages[0]["content"] for dream in used(dreaming("thorough"), "thorough")}
    assert second and not first & second


def test_a_temperature_is_stored_with_every_dream(dreaming: Dreaming, ledger: Ledger) -> None:
    from store.ledger.records import Rate

    with ledger.writing() as connection:
        save(connection, [Rate(behaviour="thorough", failed=0.0, passed=50.0, temperature=0.8)])
    assert {dream.temperature for dream in dreaming("thorough")} == {0.8}


class EverySecond:
    """A stand-in for the trainer: after the real requests, every second one has a low log-probability."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def logprobs(
        self, items: Sequence[tuple[Sequence[int], Sequence[int]]], *, exact: bool
    ) -> list[LogProb]:
        assert len({tuple(context) for context, _ in items}) == 1
        self.calls.append(len(items))
        each = [-9.0 if len(self.calls) > 1 and number % 2 else -2.0 for number in range(len(items))]
        return [
            LogProb(total=mean * len(text), tokens=len(text))
            for (_, text), mean in zip(items, each, strict=True)
        ]


def test_another_model_is_asked_in_several_forms_and_each_refusal_has_its_reason(
    dreaming: Dreaming, ledger: Ledger
) -> None:
    dreams = dreaming("listen", is_recipe=False)
    written = Counter(dream.form for dream in dreams if dream.behaviour == "listen")
    assert written.keys() == {"list", "next_turn", "ending"} and min(written.values()) >= 8
    assert all(0.7 <= dream.temperature <= 1.0 for dream in dreams)
    for dream in dreams:
        if dream.refused is None:
            assert judge.applies(BEHAVIOURS[dream.behaviour], dream.messages), dream
    with ledger.reading() as connection:
        counts = queries.dream_counts(connection)
    assert sum(one.count for one in counts) == len(dreams)
    assert any(one.refused == "not a situation for listen" for one in counts)


def test_the_forms_of_another_model_are_not_compared_again_in_the_next_work(dreaming: Dreaming) -> None:
    first = Counter(dream.form for dream in dreaming("listen", is_recipe=False))
    (best,) = {dream.form for dream in dreaming("thorough", is_recipe=False)}
    assert len(first) == 3 and best in first


def test_an_unlikely_request_is_refused_after_all_cheaper_filters(dreaming: Dreaming) -> None:
    scorer = EverySecond()
    dreams = dreaming("listen", is_recipe=False, scorer=scorer)
    listen = [dream for dream in dreams if dream.behaviour == "listen"]
    unlikely = [dream for dream in listen if dream.refused == filters.UNLIKELY]
    assert unlikely and used(dreams, "listen")
    for dream in (*unlikely, *used(dreams, "listen")):
        assert judge.applies(BEHAVIOURS["listen"], dream.messages)
    # A counter-behaviour with three examples alone has too few real requests for a band.
    real, *scored, of_counter = scorer.calls
    assert (real, of_counter) == (
        3 + len(BEHAVIOURS["listen"].examples),
        len(BEHAVIOURS["push_back"].examples),
    )
    assert len(unlikely) + len(used(dreams, "listen")) <= sum(scored) < len(listen)


def test_the_shipped_model_is_not_scored(dreaming: Dreaming) -> None:
    scorer = EverySecond()
    assert used(dreaming("thorough", scorer=scorer), "thorough") and scorer.calls == []


def test_dreams_of_another_model_grow_from_this_nights_dreams_too_and_keep_their_nodes(
    dreaming: Dreaming,
) -> None:
    dreams = [dream for dream in dreaming("listen", is_recipe=False) if dream.behaviour == "listen"]
    known = {"e-anna1", "e-anna2", "e-boris1", identity("behaviour", "listen")}
    assert all(dream.nodes and set(dream.nodes) <= known for dream in dreams)
    assert all(
        (dream.source == DECLARED) <= (identity("behaviour", "listen") in dream.nodes) for dream in dreams
    )
