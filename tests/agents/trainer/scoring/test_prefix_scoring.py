"""The context-frozen pass against full passes, by value and gradient."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from agents.trainer.scoring import prefix_scoring
from corpus.errors import TrainerFault


def rows(count: int, longest: int, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(96) for _ in range(draw.randint(1, longest))] for _ in range(count)]


CONTEXTS, CHOSEN, REJECTED = [[5], *rows(6, 12, 1)], rows(7, 6, 2), rows(7, 9, 3)


def full(model: Any, context: list[int], continuation: list[int]) -> torch.Tensor:
    """Return the summed log-probability from one full pass over one row."""
    logits = model(torch.tensor([[*context, *continuation]])).logits[0]
    each = torch.log_softmax(logits, -1)[len(context) - 1 : -1]
    return each.gather(-1, torch.tensor(continuation)[:, None]).sum()


@pytest.mark.parametrize("contexts", [CONTEXTS, [[token] for token in range(7)]])
def test_batched_and_cached_log_probabilities_are_those_of_full_passes(tiny: Any, contexts: Any) -> None:
    actual = prefix_scoring.scores(tiny, contexts, [CHOSEN, REJECTED], train=False)
    for scored, side in zip(actual, (CHOSEN, REJECTED), strict=True):
        with torch.no_grad():
            expected = [float(full(tiny, c, r)) for c, r in zip(contexts, side, strict=True)]
        assert scored.total.tolist() == pytest.approx(expected, abs=1e-4)
        assert scored.tokens.tolist() == [len(row) for row in side]


def test_gradients_are_those_of_a_full_pass_whose_past_keys_and_values_are_constants(tiny: Any) -> None:
    parameters = [p for p in tiny.parameters()]
    scored = prefix_scoring.scores(tiny, CONTEXTS, [CHOSEN, REJECTED], train=True)
    (scored[0].total.sum() - 0.5 * scored[1].total.sum()).backward()
    actual = [p.grad.clone() for p in parameters]
    tiny.zero_grad()

    held_back = 0

    def constant(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :held_back].detach(), output[:, held_back:]], dim=1)

    attentions = [layer.self_attn for layer in tiny.model.layers]
    hooks = [m.register_forward_hook(constant) for a in attentions for m in (a.k_norm, a.v_proj)]
    try:
        for context, chosen, rejected in zip(CONTEXTS, CHOSEN, REJECTED, strict=True):
            held_back = len(context) - 1
            (full(tiny, context, chosen) - 0.5 * full(tiny, context, rejected)).backward()
    finally:
        for hook in hooks:
            hook.remove()
    for name, expected, ours in zip(dict(tiny.named_parameters()), parameters, actual, strict=True):
        scale = float(expected.grad.abs().max())
        assert torch.allclose(ours, expected.grad, atol=1e-5 * max(1.0, scale)), name
    tiny.zero_grad()


def gradients(model: Any, loss: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the gradient of this loss by parameter name; the model's own gradients stay empty."""
    loss().backward()  # type: ignore[no-untyped-call]
    actual = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return actual


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        assert torch.allclose(actual[name], gradient, atol=1e-5 * scale), name


LONG = rows(1, 12, 9)[0] * 3
PREFIXES = [LONG, LONG[:7], [5], LONG, LONG[:8], [*LONG[:5], 95], LONG[:1]]


def margin(model: Any, contexts: list[list[int]], **how: bool) -> torch.Tensor:
    """Return a loss that needs both sides."""
    chosen, rejected = prefix_scoring.scores(model, contexts, [CHOSEN, REJECTED], train=True, **how)
    return chosen.total.sum() - 0.5 * rejected.total.sum()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_with_the_context_gradient_the_gradient_is_that_of_full_passes(
    tiny: Any, checkpointing: bool
) -> None:
    how = {"context_gradient": True, "checkpointing": checkpointing}
    expected = gradients(
        tiny,
        lambda: torch.stack(
            [
                full(tiny, c, y) - 0.5 * full(tiny, c, n)
                for c, y, n in zip(PREFIXES, CHOSEN, REJECTED, strict=True)
            ]
        ).sum(),
    )
    assert_close(gradients(tiny, lambda: margin(tiny, PREFIXES, **how)), expected)
    without = gradients(tiny, lambda: margin(tiny, PREFIXES))
    assert not torch.allclose(
        without["model.layers.0.mlp.up_proj.weight"], expected["model.layers.0.mlp.up_proj.weight"]
    )


def test_activation_checkpointing_changes_no_gradient_and_keeps_the_past(tiny: Any) -> None:
    plain, again = (
        gradients(tiny, lambda on=on: margin(tiny, PREFIXES, checkpointing=on)) for on in (False, True)
    )
    assert_close(again, plain)
    assert all("forward" not in vars(layer) for layer in tiny.model.layers)


def test_contexts_that_are_prefixes_of_others_score_and_train_as_if_alone(tiny: Any) -> None:
    together = prefix_scoring.scores(tiny, PREFIXES, [CHOSEN, REJECTED], train=False)
    gradient = gradients(tiny, lambda: margin(tiny, PREFIXES))
    summed = {name: torch.zeros_like(g) for name, g in gradient.items()}
    for i, context in enumerate(PREFIXES):
        alone = prefix_scoring.scores(tiny, [context], [[CHOSEN[i]], [REJECTED[i]]], train=True)
        for side, scored in zip(together, alone, strict=True):
            assert float(side.total[i]) == pytest.approx(float(scored.total.detach()), abs=1e-4)
        for name, g in gradients(tiny, lambda a=alone: a[0].total.sum() - 0.5 * a[1].total.sum()).items():
            summed[name] += g
    assert_close(gradient, summed)


def test_each_context_is_read_once_however_many_share_it(tiny: Any) -> None:
    fed: list[int] = []
    hook = tiny.model.embed_tokens.register_forward_hook(
        lambda module, inputs, output: fed.append(inputs[0].numel())
    )
    try:
        prefix_scoring.scores(tiny, PREFIXES, [CHOSEN, REJECTED], train=False)
    finally:
        hook.remove()
    # The longest context and the one that parts from it, without their last tokens; then the continuations.
    assert fed == [len(LONG) - 1, sum(map(len, CHOSEN)) + sum(map(len, REJECTED))]


def test_rows_share_the_longest_row_that_begins_with_them() -> None:
    given = [(1, 2), (), (1, 2, 3), (2,), (1, 2, 3), (1, 3)]
    contexts, indices = prefix_scoring.share_prefixes(given)
    assert sorted(contexts) == [(1, 2, 3), (1, 3), (2,)]
    assert all(contexts[number][: len(row)] == row for row, number in zip(given, indices, strict=True))
    contexts, indices = prefix_scoring.share_prefixes(given, equal=True)
    assert sorted(contexts) == sorted(set(given)) and [contexts[number] for number in indices] == given


def test_the_last_layer_of_a_context_stops_at_its_keys_and_values(tiny: Any) -> None:
    fed: list[int] = []
    hook = tiny.model.layers[-1].mlp.register_forward_hook(
        lambda module, inputs, output: fed.append(output.shape[1])
    )
    try:
        prefix_scoring.scores(tiny, [list(range(20))], [[[4, 5, 6]]], train=False)
    finally:
        hook.remove()
    assert fed == [3]


def test_a_model_in_training_mode_is_scored_without_dropout(tiny: Any) -> None:
    expected = prefix_scoring.scores(tiny, CONTEXTS, [CHOSEN], train=False)[0].total
    tiny.config.attention_dropout = 0.5
    for layer in tiny.model.layers:
        layer.self_attn.attention_dropout = 0.5
    tiny.train()
    actual = prefix_scoring.scores(tiny, CONTEXTS, [CHOSEN], train=False)[0].total
    assert torch.equal(actual, expected) and not tiny.training


def test_the_first_token_of_the_answer_is_trained(tiny: Any) -> None:
    (scored,) = prefix_scoring.scores(tiny, [[1, 2, 3]], [[[4]]], train=True)
    scored.total.sum().backward()
    assert float(tiny.model.layers[0].mlp.up_proj.weight.grad.abs().max()) > 0
    tiny.zero_grad()


def test_the_context_gets_no_gradient(tiny: Any) -> None:
    layer = tiny.model.layers[0]
    seen: list[torch.Size] = []
    hook = layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0].shape))
    try:
        (scored,) = prefix_scoring.scores(tiny, [list(range(20))], [[[4, 5, 6]]], train=True)
        scored.total.sum().backward()
    finally:
        hook.remove()
    assert [shape[1] for shape in seen] == [3]  # the held-back token and two of the answer's three
    tiny.zero_grad()


def test_an_empty_side_is_refused(tiny: Any) -> None:
    for contexts, continuations in (([[]], [[[1]]]), ([[1]], [[[]]])):
        with pytest.raises(TrainerFault, match="at least one token"):
            prefix_scoring.scores(tiny, contexts, continuations, train=False)


def test_a_token_that_the_model_does_not_have_is_refused(tiny: Any) -> None:
    for token in (96, -1):
        with pytest.raises(TrainerFault, match="another model's tokenizer"):
            prefix_scoring.scores(tiny, [[1]], [[[token]]], train=False)
