"""Our losses against TRL, which `make bench` installs in an environment of its own; skipped without it."""

import copy
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agents.trainer.messages import Example, Objective, Settings, TrainRequest
from agents.trainer.update.objective import Mismatched, loss_of, with_references
from bench import losses as bench

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # theirs are not our errors


@pytest.mark.parametrize("name", [name for name in bench.NAMES if name != "dpop"])
def test_a_loss_and_its_gradient_are_those_of_trl(name: str) -> None:
    theirs = bench.rival(name)
    assert theirs is not None
    value, gradient = bench.apart(name, theirs, 50)
    assert value < 1e-5 and gradient < 1e-6


def examples() -> list[Example]:
    """Return contexts of one token: nothing precedes that token, so the pass has the whole gradient."""
    draw = random.Random(3)
    sides = [[[draw.randrange(96) for _ in range(draw.randint(1, 9))] for _ in range(2)] for _ in range(5)]
    return [
        Example(context=[i], chosen=chosen, rejected=rejected) for i, (chosen, rejected) in enumerate(sides)
    ]


def batch(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, torch.Tensor]:
    """Lay out contexts with answers as TRL's collators do."""
    longest = max(len(context) + len(answer) for context, answer in rows)
    actual = {
        key: torch.zeros(len(rows), longest, dtype=torch.long) for key in ("input_ids", "attention_mask")
    }
    actual["completion_mask"] = actual["attention_mask"].clone()
    for i, (context, answer) in enumerate(rows):
        whole = [*context, *answer]
        actual["input_ids"][i, : len(whole)] = torch.tensor(whole)
        actual["attention_mask"][i, : len(whole)] = 1
        actual["completion_mask"][i, len(context) : len(whole)] = 1
    return actual


def dpo(common: dict[str, Any], rows: Sequence[Example]) -> Any:
    more = {
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "loss_types": ["sigmoid"],
        "loss_weights": [1.0],
    }
    trainer = bench.trainer(trl.DPOTrainer, **common, **more, label_smoothing=0.0, use_weighting=False)
    return trainer, batch([(r.context, r.chosen) for r in rows] + [(r.context, r.rejected) for r in rows])


def kto(common: dict[str, Any], rows: Sequence[Example]) -> Any:
    more = {"calculate_KL": True, "loss_type": "kto", "desirable_weight": 1.5, "undesirable_weight": 0.5}
    trainer = bench.trainer(trl.KTOTrainer, **common, **more)
    answers = [(r.context, side) for r in rows for side in (r.chosen, r.rejected)]
    others = [(r.context, side) for r in rows if isinstance(r, Mismatched) for side in r.others]
    assert len(answers) == len(others)
    mismatched = {f"KL_{key}": value for key, value in batch(others).items()}
    return trainer, {**batch(answers), **mismatched, "label": torch.tensor([True, False] * len(rows))}


@pytest.mark.parametrize("objective, theirs", [("dpo", dpo), ("kto", kto)])
def test_an_objective_on_a_model_has_the_value_and_the_gradient_of_trls_trainer(
    tiny: Any, objective: Objective, theirs: Any
) -> None:
    from trl.trainer.utils import add_fused_lm_head

    parent, model = copy.deepcopy(tiny), copy.deepcopy(tiny)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in parent.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    settings = Settings(lr=1.0, batch_size=2, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    request = TrainRequest(objective=objective, settings=settings, seed=0, parent="", examples=examples())
    rows = with_references(parent, request)
    ours = loss_of(model, objective, settings, rows, train=True)
    ours.value.backward()
    actual = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    for patched in (parent, model):
        add_fused_lm_head(patched, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    arguments = SimpleNamespace(max_length=None, gradient_checkpointing_kwargs=None)
    common = {"model": model, "ref_model": parent, "precompute_ref_logps": False, "args": arguments}
    trainer, inputs = theirs(common, rows)
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    if objective == "kto":
        assert ours.metrics["reference_point"] == pytest.approx(trainer._metrics["eval"]["kl"][0], abs=1e-4)
        assert ours.metrics["reference_point"] > 0.01
    assert float(ours.value.detach()) == pytest.approx(float(loss.detach()), abs=1e-5)
    assert float((actual - expected).norm()) < 1e-4 * float(expected.norm())
