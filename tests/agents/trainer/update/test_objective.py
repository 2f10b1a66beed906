"""From examples to a loss: the reference of each objective, and a step as the sum of its parts."""

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from agents.trainer.messages import Example, Objective, Settings, TrainRequest
from agents.trainer.update.objective import (
    WITH_REFERENCES,
    Mismatched,
    loss_of,
    reference_point,
    with_references,
)

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
SETTINGS = Settings(lr=1e-2, batch_size=3, beta=0.2, desirable_weight=1.5)


def examples(count: int = 5, seed: int = 3) -> list[Example]:
    draw = random.Random(seed)
    rows = [[[draw.randrange(96) for _ in range(draw.randint(1, 9))] for _ in range(3)] for _ in range(count)]
    return [
        Example(context=c, chosen=w, rejected=r, weight=0.5 + i % 2 / 2) for i, (c, w, r) in enumerate(rows)
    ]


def request(objective: Objective, rows: Sequence[Example]) -> TrainRequest:
    return TrainRequest(objective=objective, settings=SETTINGS, seed=7, parent="0" * 64, examples=rows)


@pytest.fixture(scope="module")
def models(tiny: Any) -> tuple[Any, Any]:
    """Return a parent, and another model as its trained version; their KTO z_0 is above 0."""
    parent, trained = copy.deepcopy(tiny), copy.deepcopy(tiny)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in parent.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return parent, trained


def total(model: Any, context: Sequence[int], answer: Sequence[int]) -> float:
    """Return the answer's log-probability from one full pass."""
    with torch.no_grad():
        each = torch.log_softmax(model(torch.tensor([[*context, *answer]])).logits[0], -1)
    return sum(float(each[len(context) - 1 + i, token]) for i, token in enumerate(answer))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_parts_of_a_step_add_up_to_the_step(models: tuple[Any, Any], objective: Objective) -> None:
    parent, model = models
    rows = with_references(parent, request(objective, examples()))

    def gradient(parts: Sequence[slice], **whole: Any) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            loss_of(model, objective, SETTINGS, rows[part], train=True, **whole).value.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = gradient([slice(0, 5)])
    actual = gradient([slice(0, 2), slice(2, 5)], count=5, point=reference_point(model, SETTINGS, rows))
    assert float(expected.norm()) > 0
    assert float((actual - expected).norm()) < 1e-5 * float(expected.norm())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_some_steps_down_the_gradient_lower_the_loss_and_raise_the_chosen_answers(
    tiny: Any, objective: Objective
) -> None:
    model = copy.deepcopy(tiny)
    rows = with_references(model, request(objective, examples()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    actual = []
    for _ in range(8):
        optimizer.zero_grad()
        actual.append(loss_of(model, objective, SETTINGS, rows, train=True))
        actual[-1].value.backward()
        optimizer.step()
    first, last = actual[0], actual[-1]
    assert float(last.value.detach()) < float(first.value.detach()) - 1e-3
    watched = "chosen_logprob" if objective == "sft" else "margin"
    assert last.metrics[watched] > first.metrics[watched] + 1e-2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_has_references_if_and_only_if_it_compares_with_the_parent(
    models: tuple[Any, Any], objective: Objective
) -> None:
    parent, _ = models
    plain = examples()
    rows = with_references(parent, request(objective, plain))
    if objective not in WITH_REFERENCES:
        assert rows == plain
        return
    for row in rows:
        assert row.reference_chosen == pytest.approx(total(parent, row.context, row.chosen), abs=1e-4)
        assert row.reference_rejected == pytest.approx(total(parent, row.context, row.rejected), abs=1e-4)
    metrics = loss_of(parent, objective, SETTINGS, rows, train=False).metrics
    assert metrics["margin"] == pytest.approx(0, abs=1e-5)


def test_a_known_reference_is_not_computed_again(models: tuple[Any, Any]) -> None:
    first, *others = examples()
    pinned = replace(first, reference_chosen=-1.5, reference_rejected=-2.5)
    rows = with_references(models[0], request("dpo", [pinned, *others]))
    assert rows[0] == pinned and all(row.reference_chosen is not None for row in rows[1:])


def test_the_reference_point_of_kto_is_the_divergence_on_the_next_examples_answers(
    models: tuple[Any, Any],
) -> None:
    parent, model = models
    rows = with_references(parent, request("kto", examples()))
    ratios = []
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        for answer in (other.chosen, other.rejected):
            ratios.append(total(model, row.context, answer) - total(parent, row.context, answer))
    expected = sum(ratios) / len(ratios)
    actual = reference_point(model, SETTINGS, rows)
    assert actual == pytest.approx(max(0.0, expected), abs=1e-4)
    swapped = with_references(model, request("kto", examples()))  # the other way round it is below 0
    other_way = reference_point(parent, SETTINGS, swapped)
    assert other_way == pytest.approx(max(0.0, -expected), abs=1e-4)
    assert actual > 0.01 and other_way == 0
    assert loss_of(model, "kto", SETTINGS, rows, train=False).metrics["reference_point"] == pytest.approx(
        actual
    )


def test_mismatched_answers_are_those_to_another_context(models: tuple[Any, Any]) -> None:
    one, two, three = examples(3)
    twin = replace(two, context=one.context)
    rows = with_references(models[0], request("kto", [one, twin, three]))
    actual = [row.others for row in rows if isinstance(row, Mismatched)]
    assert actual == [
        (three.chosen, three.rejected),
        (three.chosen, three.rejected),
        (one.chosen, one.rejected),
    ]


def test_examples_of_one_context_have_a_reference_point_of_zero(
    models: tuple[Any, Any],
) -> None:
    parent, model = models
    one, two = examples(2)
    for alone in ([one], [one, replace(two, context=one.context)]):
        rows = with_references(parent, request("kto", alone))
        assert reference_point(model, SETTINGS, rows) == 0
        assert loss_of(model, "kto", SETTINGS, rows, train=False).metrics["reference_point"] == 0


def test_a_step_of_one_example_has_a_reference_point(models: tuple[Any, Any]) -> None:
    ways = []
    for old, new in (models, models[::-1]):
        rows = with_references(old, request("kto", examples(2)))
        ways.append([reference_point(new, SETTINGS, [row]) for row in rows])
    assert all(max(points) > 0 for points in zip(*ways, strict=True))  # above 0 one way is below 0 the other


OWN: dict[Objective, set[str]] = {
    "sft": set(),
    "orpo": {"beta"},
    "dpo": {"beta"},
    "dpop": {"beta", "dpop_penalty"},
    "simpo": {"beta", "simpo_margin"},
    "kto": {"beta", "desirable_weight", "undesirable_weight"},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_depends_only_on_its_own_settings(models: tuple[Any, Any], objective: Objective) -> None:
    parent, model = models
    rows = with_references(parent, request(objective, examples()))

    def value(settings: Settings) -> float:
        return float(loss_of(model, objective, settings, rows, train=False).value)

    names = set().union(*OWN.values())
    changed = {name: value(replace(SETTINGS, **{name: 2 * getattr(SETTINGS, name)})) for name in names}
    assert {name for name, actual in changed.items() if abs(actual - value(SETTINGS)) > 1e-6} == OWN[
        objective
    ]
