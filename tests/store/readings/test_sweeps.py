"""Sweeps and predictions in the ledger, with the effect of the training that followed."""

from pathlib import Path

import pytest
from night import BASE, a_dream, a_pair, a_trained_night, new_ledger, sha

from store import queries
from store.ledger import schema, schema_readings
from store.ledger.records import Attempt, Measurement, save
from store.nights import history, report
from store.nights.results import WhyUpdate
from store.queue.outcome import Change, apply
from store.readings import sweeps
from store.readings.records import Prediction, Sweep


def a_sweep(name: str, behaviour: str = "listen") -> Sweep:
    return Sweep(
        id=name, concept=behaviour, vectors="v" * 16, layer=1, behaviour=behaviour, definition="d", seed=0,
        weights_sha256=sha("base weights"), strengths=[0.0, 4.0], outcomes=["0011", "0111"], slope=0.01,
        perplexities=[1.2, 1.3], verdict="raises", reasons=["because"], at="2026-01-01T00:00:00.000+00:00",
    )  # fmt: skip


def a_prediction(name: str, at: str, behaviour: str = "listen", said: str = "raises") -> Prediction:
    return Prediction(
        id=name, behaviour=behaviour, sweep_id="s1", checkpoint_id=BASE, said=said, reason="because", at=at
    )


def test_a_sweep_and_its_prediction_are_stored_once(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        for _ in range(2):
            sweeps.add(connection, a_sweep("s1"), a_prediction("f1", "2026-01-02"))
        [sweep] = connection.execute(schema_readings.sweeps.select()).mappings().all()
        assert sweep["outcomes"] == ["0011", "0111"] and sweep["verdict"] == "raises"
        [prediction] = sweeps.predictions_of(connection, "listen")
        assert prediction.said == "raises" and prediction.updates == []
    ledger.close()


def test_attempts_are_those_of_a_behaviours_dreams_in_use(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        night = history.begin_night(connection, seed=0, retry=False)
        dreams = [
            a_dream("d1", night),
            a_dream("d2", night, refused="old"),
            a_dream("d3", night, behaviour="ask"),
        ]
        attempts = [
            Attempt(
                id=f"a{dream.id}", dream_id=dream.id, text="Yes.", instructed=False, temperature=1.0, seed=1,
                checkpoint_id=BASE, passed=True, reason="fine",
            )
            for dream in dreams
        ]  # fmt: skip
        save(connection, [*dreams, *attempts])
        [attempt] = sweeps.attempts_of(connection, "listen")
    assert (attempt.dream_id, attempt.text, attempt.passed) == ("d1", "Yes.", True)
    assert attempt.messages == [{"role": "user", "content": "d1"}]
    ledger.close()


@pytest.mark.parametrize("decision", ["keep", "roll back"])
def test_a_prediction_has_the_updates_between_it_and_the_next_prediction(
    tmp_path: Path, decision: str
) -> None:
    ledger = new_ledger(tmp_path)
    with ledger.writing() as connection:
        update = a_trained_night(connection, a_pair("p1", "n1"))
        night = queries.night(connection, update.night_id)
        row = queries.update_of(connection, update.night_id)
        assert row is not None
        apply(connection, Change(table="nights", where={"id": night.id}, values={"targets": ["listen"]}))
        sides = [
            queries.checkpoint(connection, str(checkpoint_id)).weights_sha256
            for checkpoint_id in (row.parent_id, row.checkpoint_id)
        ]
        for weights, outcomes in zip(sides, ("0001", "0111"), strict=True):
            measurement = Measurement(
                weights_sha256=weights, behaviour="listen", definition="d", seed=night.seed,
                round=0, outcomes=outcomes,
            )  # fmt: skip
            save(connection, [measurement])
        history.carry_out(connection, update=row, decision=decision, reasons=["so"])
        sweeps.add(connection, a_sweep("s1"), a_prediction("f1", "1999-01-01"))
        sweeps.add(connection, a_sweep("s1"), a_prediction("f2", "2000-01-01"))
        sweeps.add(connection, a_sweep("s1"), a_prediction("f3", "2999-01-01"))
        sweeps.add(connection, a_sweep("s2", "ask"), a_prediction("f4", "2000-01-01", "ask"))
        predictions = sweeps.predictions_of(connection, "listen")
        why = report.why(connection, update.id)
        assert isinstance(why, WhyUpdate)
        assert sweeps.predictions_of(connection, "ask")[0].updates == []
        assert connection.execute(schema.updates.select()).rowcount != 0
    ledger.close()
    assert [(prediction.id, [update.id for update in prediction.updates]) for prediction in predictions] == [
        ("f1", []), ("f2", [update.id]), ("f3", [])
    ]  # fmt: skip
    [effect] = predictions[1].updates
    assert (effect.before, effect.after) == ("0001", "0111")
    assert effect.state == {"keep": "kept", "roll back": "undone"}[decision]
    assert [prediction.id for prediction in why.predictions] == ["f2"] and why.predictions[0].updates == [
        effect
    ]
