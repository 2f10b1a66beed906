"""Our losses against TRL's on the same random log-probabilities: their differences and their costs.

    python -m bench.losses [--threads 1] [--draws 20] [--repeats 200] [--json]

TRL's own trainers compute theirs, metrics included, from log-probabilities handed to them in a model's
place; the gradient is that on each token's log-probability. Where the two mean different things the inputs
are such that they agree: TRL's SFT averages over all tokens of the batch (so here all answers are equally
long), and its ORPO adds the likelihood of prompt and answer (here both add the answer's, and the odds ratio
is compared). TRL has no DPOP.

Knows no model.
"""

import functools
import logging
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from agents.trainer.scoring.prefix_scoring import Scores
from agents.trainer.update import losses
from bench import _table
from bench._table import Goal

PAIRS, LONGEST = 16, 24
"""Pairs of a batch, and the longest answer's tokens."""
BETA, GAMMA, DESIRABLE, UNDESIRABLE, PENALTY = 0.3, 0.7, 1.2, 0.8, 5.0
WHO, FINITE = ("ours", "TRL"), ("finite", "TRL finite")
NAMES = ("sft", "dpo", "dpop", "orpo", "simpo", "kto")


@dataclass(frozen=True, kw_only=True)
class Given:
    """Random log-probabilities (nats) of a batch of pairs."""

    logprobs: torch.Tensor
    """(2 * PAIRS, LONGEST), zero past an answer's end; the chosen answers first. Has the gradient."""
    mask: torch.Tensor
    """(2 * PAIRS, LONGEST) int64, 1 for a token."""
    references: torch.Tensor
    """(2 * PAIRS,) summed."""
    mismatched: torch.Tensor
    """(2 * PAIRS, LONGEST): of other answers in the same contexts."""
    mismatched_references: torch.Tensor
    """(2 * PAIRS,) summed."""


def draw(name: str, seed: int) -> Given:
    """Return a batch for this loss."""
    random = torch.Generator().manual_seed(seed)
    shape = (2 * PAIRS, LONGEST)
    lengths = torch.randint(1, LONGEST + 1, (shape[0], 1), generator=random)
    if name == "sft":
        lengths = torch.full_like(lengths, LONGEST)
    mask = (torch.arange(LONGEST) < lengths).long()
    logprobs, mismatched = (-2 * torch.rand(shape, generator=random) ** 2 * mask for _ in range(2))
    return Given(
        logprobs=logprobs.requires_grad_(),
        mask=mask,
        references=logprobs.detach().sum(1) + torch.randn(shape[0], generator=random),
        mismatched=mismatched,
        mismatched_references=mismatched.sum(1) + torch.randn(shape[0], generator=random),
    )


def certain() -> Given:
    """Return answers with a log-probability of 0 and of -1e4 a token, against each other and themselves."""
    mask = torch.ones(2 * PAIRS, LONGEST, dtype=torch.long)
    logprobs = torch.zeros(mask.shape)
    logprobs[: PAIRS // 2] = logprobs[PAIRS : PAIRS + PAIRS // 4] = -1e4
    zeros = torch.zeros(2 * PAIRS)
    return Given(
        logprobs=logprobs.requires_grad_(), mask=mask, references=zeros, mismatched=logprobs.detach(),
        mismatched_references=zeros,
    )  # fmt: skip


def finite(loss: Callable[[Given], torch.Tensor]) -> bool:
    """Return whether value and gradient are finite where answers are certain or impossible."""
    given = certain()
    value = loss(given)
    return bool(torch.isfinite(value)) and bool(
        torch.isfinite(torch.autograd.grad(value, given.logprobs)[0]).all()
    )


def ours(name: str, given: Given) -> torch.Tensor:
    """Return the value of our loss, with equal trust for all examples."""
    totals, tokens = (given.logprobs * given.mask).sum(1), given.mask.sum(1)
    chosen, rejected = (Scores(total=totals[s], tokens=tokens[s]) for s in (slice(PAIRS), slice(PAIRS, None)))
    references, weights = given.references.reshape(2, PAIRS).T, torch.ones(PAIRS)
    if name == "sft":
        return losses.sft(chosen, weights).value
    if name == "orpo":
        return losses.orpo(chosen, rejected, weights, strength=BETA).value
    if name == "simpo":
        return losses.simpo(chosen, rejected, weights, beta=BETA, margin=GAMMA).value
    if name in ("dpo", "dpop"):
        penalty = PENALTY if name == "dpop" else 0.0
        return losses.dpo(chosen, rejected, references, weights, beta=BETA, penalty=penalty).value
    point = float((given.mismatched.sum(1) - given.mismatched_references).mean())
    both = {"desirable": DESIRABLE, "undesirable": UNDESIRABLE}
    return losses.kto(chosen, rejected, references, weights, beta=BETA, reference_point=point, **both).value


def rival(name: str) -> Callable[[Given], torch.Tensor] | None:
    """Return TRL's loss of this name, or None where it has none."""
    logging.getLogger("trl").setLevel(logging.ERROR)
    return {"sft": _sft, "dpo": _dpo, "orpo": _orpo, "simpo": _simpo, "kto": _kto}.get(name, lambda: None)()


def apart(name: str, theirs: Callable[[Given], torch.Tensor], draws: int) -> tuple[float, float]:
    """Return the largest absolute difference of the value, and of the gradient, over some draws."""
    value, gradient = 0.0, 0.0
    for seed in range(draws):
        given = draw(name, seed)
        (own, own_gradient), (other, other_gradient) = (
            (float(loss.detach()), torch.autograd.grad(loss, given.logprobs)[0])
            for loss in (ours(name, given), theirs(given))
        )
        value = max(value, abs(own - other))
        gradient = max(gradient, float((own_gradient - other_gradient).abs().max()))
    return value, gradient


class _Model(torch.nn.Module):
    """A stand-in for a model: answers with the given log-probabilities, as TRL's fused head returns them."""

    def __init__(self, given: Given, answers: int) -> None:
        super().__init__()
        self.given, self.answers = given, answers

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        wanted = self.given.mismatched if bool((input_ids == 1).all()) else self.given.logprobs
        logprobs = (wanted * self.given.mask)[: self.answers]
        nothing = torch.zeros_like(logprobs)
        return SimpleNamespace(
            log_probs=logprobs,
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing.bool(),
            label_mask=self.given.mask[: self.answers],
        )


def trainer(kind: type[Any], **attributes: Any) -> Any:
    """Return a trainer of TRL without a model, data or schedule: only what its loss reads."""
    from accelerate import Accelerator

    trainer = object.__new__(kind)
    common = {"accelerator": Accelerator(cpu=True), "model": torch.nn.Module(), "aux_loss_enabled": False}
    common |= {"beta": BETA, "_metrics": defaultdict(lambda: defaultdict(list))}
    common |= {"_total_train_tokens": 0, "_tp_size": 1, "precompute_ref_logps": True}
    for name, value in {**common, **attributes}.items():
        setattr(trainer, name, value)
    return trainer


def _inputs(given: Given, answers: int = 2 * PAIRS) -> dict[str, torch.Tensor]:
    """Return one token of context, then the answers; no token id is read."""
    mask = torch.nn.functional.pad(given.mask[:answers], (1, 0))
    attention = torch.nn.functional.pad(given.mask[:answers], (1, 0), value=1)
    return {"input_ids": torch.zeros_like(mask), "attention_mask": attention, "completion_mask": mask}


def _sft() -> Callable[[Given], torch.Tensor]:
    from trl import SFTTrainer

    arguments = SimpleNamespace(loss_type="nll", average_tokens_across_devices=False)
    maker = trainer(SFTTrainer, args=arguments, compute_loss_func=None, label_smoother=None)

    def loss(given: Given) -> torch.Tensor:
        inputs = _inputs(given, PAIRS)
        inputs["labels"] = inputs["input_ids"].masked_fill(inputs.pop("completion_mask") == 0, -100)
        return maker.compute_loss(_Model(given, PAIRS), inputs)

    return loss


def _dpo() -> Callable[[Given], torch.Tensor]:
    from trl import DPOTrainer

    maker = trainer(
        DPOTrainer, ld_alpha=None, f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0],
        label_smoothing=0.0, use_weighting=False, args=SimpleNamespace(max_length=None),
    )  # fmt: skip

    def loss(given: Given) -> torch.Tensor:
        references = {
            "ref_chosen_logps": given.references[:PAIRS],
            "ref_rejected_logps": given.references[PAIRS:],
        }
        return maker.compute_loss(_Model(given, 2 * PAIRS), {**_inputs(given), **references})

    return loss


def _kto() -> Callable[[Given], torch.Tensor]:
    from trl import KTOTrainer

    maker = trainer(
        KTOTrainer, calculate_KL=True, loss_type="kto", desirable_weight=DESIRABLE,
        undesirable_weight=UNDESIRABLE, args=SimpleNamespace(max_length=None),
    )  # fmt: skip

    def loss(given: Given) -> torch.Tensor:
        plain = _inputs(given)
        inputs = {**plain, **{f"KL_{key}": value for key, value in plain.items()}}
        inputs["KL_input_ids"] = torch.ones_like(plain["input_ids"])
        inputs |= {"label": torch.arange(2 * PAIRS) < PAIRS}
        inputs |= {"ref_logps": given.references, "ref_KL_logps": given.mismatched_references}
        return maker.compute_loss(_Model(given, 2 * PAIRS), inputs)

    return loss


def _averaged(maker: Any) -> Callable[[Given], torch.Tensor]:
    """Return the loss of a trainer that averages per token; the likelihood term is ours."""

    def loss(given: Given) -> torch.Tensor:
        means = (given.logprobs * given.mask).sum(1) / given.mask.sum(1)
        nothing = torch.zeros(1)
        forward = (means[:PAIRS], means[PAIRS:], nothing, nothing, -means[:PAIRS].mean())
        maker.concatenated_forward = lambda model, batch: forward
        return maker.get_batch_loss_metrics(None, {})[0]

    return loss


def _orpo() -> Callable[[Given], torch.Tensor]:
    from trl.experimental.orpo import ORPOTrainer

    return _averaged(trainer(ORPOTrainer))


def _simpo() -> Callable[[Given], torch.Tensor]:
    from trl.experimental.cpo import CPOTrainer

    simpo = {"loss_type": "simpo", "simpo_gamma": GAMMA, "cpo_alpha": 0.0, "alpha": 0.0}
    return _averaged(trainer(CPOTrainer, label_smoothing=0.0, **simpo))


def _run(name: str, theirs: Callable[[Given], torch.Tensor] | None) -> dict[str, Callable[[], object]]:
    """Return a function that computes value and gradient of both losses, to be timed."""
    given = draw(name, 0)
    found = {"ours": functools.partial(ours, name)} | ({} if theirs is None else {"TRL": theirs})
    return {
        which: lambda loss=loss: torch.autograd.grad(loss(given), given.logprobs)
        for which, loss in found.items()
    }


def _measured(name: str, draws: int, repeats: int) -> dict[str, Any]:
    """Return all figures of one loss, with None where TRL has none."""
    theirs = rival(name)
    value, gradient = apart(name, theirs, draws) if theirs else (None, None)
    us = _table.interleaved(_run(name, theirs), repeats=repeats, warmup=5)
    return {
        "value": value,
        "gradient": gradient,
        "us": {which: {"wall": 1e3 * t.wall_ms, "cpu": 1e3 * t.cpu_ms} for which, t in us.items()},
        "finite": finite(functools.partial(ours, name)),
        "TRL finite": finite(theirs) if theirs else None,
    }


def main() -> int:
    """Print the table; return 1 when a goal is missed."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {name: _measured(name, options.draws, options.repeats) for name in NAMES}
    rows = [[name, *_cells(figures)] for name, figures in results.items()]
    heads = ["loss", "value apart", "gradient apart", "ours us", "TRL us", "ours finite", "TRL finite"]
    title = (
        f"{PAIRS} pairs; us: wall / CPU, with gradient and metrics; "
        "finite: answers of 0 and -1e4 nats a token"
    )
    _table.show(title, heads, rows)
    return _table.finish(results, _goals(list(results.values())), as_json=options.json)


def _cells(figures: dict[str, Any]) -> list[object]:
    """Return one row of the table."""
    apart_by = ["TRL has none", ""] if figures["value"] is None else [figures["value"], figures["gradient"]]
    us = [
        f"{figures['us'][who]['wall']:.0f} / {figures['us'][who]['cpu']:.0f}" if who in figures["us"] else ""
        for who in WHO
    ]
    finite = ["" if figures[key] is None else "yes" if figures[key] else "NO" for key in FINITE]
    return [*apart_by, *us, *finite]


def _goals(results: list[dict[str, Any]]) -> list[Goal]:
    known = [each for each in results if each["value"] is not None]
    finite = sum(each["finite"] for each in results)
    return [
        Goal(name="largest value apart", found=max(each["value"] for each in known), limit=1e-5),
        Goal(name="largest gradient apart", found=max(each["gradient"] for each in known), limit=1e-5),
        Goal(name="losses that stay finite", found=finite, limit=len(NAMES), at_least=True),
    ]


if __name__ == "__main__":
    sys.exit(main())
