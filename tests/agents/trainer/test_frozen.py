"""The context-frozen pass against full passes, in value and in gradient."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agents.trainer import frozen
from corpus.errors import TrainerFault


def rows(count: int, longest: int, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(96) for _ in range(draw.randint(1, longest))] for _ in range(count)]


CONTEXTS, CHOSEN, REJECTED = [[5], *rows(6, 12, 1)], rows(7, 6, 2), rows(7, 9, 3)


def full(model: Any, context: list[int], continuation: list[int]) -> torch.Tensor:
    """The summed log-probability by one full pass over one row."""
    logits = model(torch.tensor([[*context, *continuation]])).logits[0]
    each = torch.log_softmax(logits, -1)[len(context) - 1 : -1]
    return each.gather(-1, torch.tensor(continuation)[:, None]).sum()


@pytest.mark.parametrize("contexts", [CONTEXTS, [[token] for token in range(7)]])
def test_batched_and_cached_log_probabilities_are_those_of_full_passes(tiny: Any, contexts: Any) -> None:
    found = frozen.scores(tiny, contexts, [CHOSEN, REJECTED], train=False)
    for scored, side in zip(found, (CHOSEN, REJECTED), strict=True):
        with torch.no_grad():
            expected = [float(full(tiny, c, r)) for c, r in zip(contexts, side, strict=True)]
        assert scored.total.tolist() == pytest.approx(expected, abs=1e-4)
        assert scored.tokens.tolist() == [len(row) for row in side]


def test_gradients_are_those_of_a_full_pass_whose_past_keys_and_values_are_constants(tiny: Any) -> None:
    parameters = [p for p in tiny.parameters()]
    scored = frozen.scores(tiny, CONTEXTS, [CHOSEN, REJECTED], train=True)
    (scored[0].total.sum() - 0.5 * scored[1].total.sum()).backward()
    found = [p.grad.clone() for p in parameters]
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
    for name, expected, ours in zip(dict(tiny.named_parameters()), parameters, found, strict=True):
        scale = float(expected.grad.abs().max())
        assert torch.allclose(ours, expected.grad, atol=1e-5 * max(1.0, scale)), name
    tiny.zero_grad()


def test_the_first_token_of_the_answer_is_trained(tiny: Any) -> None:
    (scored,) = frozen.scores(tiny, [[1, 2, 3]], [[[4]]], train=True)
    scored.total.sum().backward()
    assert float(tiny.model.layers[0].mlp.up_proj.weight.grad.abs().max()) > 0
    tiny.zero_grad()


def test_the_context_gets_no_gradient(tiny: Any) -> None:
    layer = tiny.model.layers[0]
    seen: list[torch.Size] = []
    hook = layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0].shape))
    try:
        (scored,) = frozen.scores(tiny, [list(range(20))], [[[4, 5, 6]]], train=True)
        scored.total.sum().backward()
    finally:
        hook.remove()
    assert [shape[1] for shape in seen] == [3]  # the held-back token and two of the answer's three
    tiny.zero_grad()


def test_an_empty_side_is_refused(tiny: Any) -> None:
    for contexts, continuations in (([[]], [[[1]]]), ([[1]], [[[]]])):
        with pytest.raises(TrainerFault, match="at least one token"):
            frozen.scores(tiny, contexts, continuations, train=False)


def test_a_token_that_the_model_does_not_have_is_refused(tiny: Any) -> None:
    for token in (96, -1):
        with pytest.raises(TrainerFault, match="another model's tokenizer"):
            frozen.scores(tiny, [[1]], [[[token]]], train=False)


def test_a_model_with_other_layers_than_full_attention_is_refused(tiny: Any) -> None:
    frozen.check(tiny)
    for config in (
        SimpleNamespace(layer_types=["linear_attention", "full_attention"]),
        SimpleNamespace(layer_types=None, sliding_window=4),
    ):
        with pytest.raises(TrainerFault, match="only full attention"):
            frozen.check(SimpleNamespace(config=config))


def test_residuals_are_those_of_each_text_alone(tiny: Any) -> None:
    found = frozen.residuals(tiny, CONTEXTS, [1, 0])
    assert found.shape == (7, 2, 64)
    for i, context in enumerate(CONTEXTS):
        alone = frozen.residuals(tiny, [context], [0, 1])
        assert torch.allclose(found[i, 1], alone[0, 0], atol=1e-5)
        assert torch.allclose(found[i, 0], alone[0, 1], atol=1e-5)
        with torch.no_grad():
            final = tiny.model(torch.tensor([context])).last_hidden_state[0, -1]
        assert torch.allclose(tiny.model.norm(found[i, 0]), final, atol=1e-4)
    with pytest.raises(TrainerFault, match="layers are 0 to 1"):
        frozen.residuals(tiny, CONTEXTS, [2])
