"""An update that keeps every answer and moves an inner state: planted in the weights of one that was kept.

A direction is added to the residual stream after a layer and taken off again after the next, by two rank-one
changes of the MLPs' output; of all directions along a concept's vector it is the one that the layer between
sees least.
"""

from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from corpus.recipe import MODEL_DIR
from corpus.world.concepts import CONCEPTS, baselines, probe_texts, texts
from store.tensors.raw import RawTensor

LAYER = 2
"""After which it is added: the one that the monitor reads."""
DOWN = "model.layers.{}.mlp.down_proj.weight"
SEEN = 0.01
"""How much its own length counts, against how much of it the next layer sees."""
Numbers = NDArray[np.float64]


def planted(weights: dict[str, RawTensor], vector: Numbers, reading: float) -> dict[str, RawTensor]:
    """Return these weights with the stream after LAYER moved this far along a unit vector."""
    model = _model(weights)
    constant = _constants(model)
    shift = _unseen(model.model.layers[LAYER + 1], vector)
    changed = dict(weights)
    for layer, sign in ((LAYER, 1), (LAYER + 1, -1)):
        name = DOWN.format(layer)
        values = _array(weights[name]) + sign * reading * np.outer(shift / (shift @ vector), constant[layer])
        changed[name] = RawTensor(dtype="F32", shape=values.shape, data=values.astype(np.float32).tobytes())
    return changed


def _model(weights: dict[str, RawTensor]) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    state = {name: torch.from_numpy(_array(raw).astype(np.float32)) for name, raw in weights.items()}
    model.load_state_dict(state, strict=False)  # tied: the files have one of the two
    return model


def _constants(model: Any) -> dict[int, Numbers]:
    """Return for both layers the direction inside the MLP with a value of about 1 on every token: a bias."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
    inside: dict[int, list[Numbers]] = {LAYER: [], LAYER + 1: []}

    def keep(layer: int) -> Any:
        return lambda module, args: inside[layer].append(args[0][0].double().numpy())

    hooks = [model.model.layers[i].mlp.down_proj.register_forward_pre_hook(keep(i)) for i in inside]
    samples = [*probe_texts(), *baselines(), *(text for concept in CONCEPTS for text in texts(concept)[:6])]
    with torch.no_grad():
        for text in samples:
            half = len(text) // 2
            talk = [{"role": "user", "content": text[:half]}, {"role": "assistant", "content": text[half:]}]
            dialogue = tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"]
            for tokens in (tokenizer(text)["input_ids"], dialogue):
                model(input_ids=torch.tensor([tokens]))
    for hook in hooks:
        hook.remove()
    return {layer: _solve_for_one(np.concatenate(rows)) for layer, rows in inside.items()}


def _solve_for_one(rows: Numbers) -> Numbers:
    """Return the x of `rows @ x = 1`, by least squares with a little ridge."""
    gram = rows.T @ rows
    ridge = 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    solution: Numbers = np.linalg.solve(gram + ridge, rows.sum(axis=0))
    return solution


def _unseen(layer: Any, vector: Numbers) -> Numbers:
    """Return the direction along this vector to which a layer's projections respond least."""
    attention, mlp = layer.self_attn, layer.mlp
    readers = [
        *((part, layer.input_layernorm) for part in (attention.q_proj, attention.k_proj, attention.v_proj)),
        *((part, layer.post_attention_layernorm) for part in (mlp.gate_proj, mlp.up_proj)),
    ]
    seen = np.concatenate([(part.weight * norm.weight).detach().double().numpy() for part, norm in readers])
    gram = seen.T @ seen
    solution: Numbers = np.linalg.solve(gram + SEEN * np.trace(gram) / len(gram) * np.eye(len(gram)), vector)
    return solution


def _array(raw: RawTensor) -> NDArray[np.float64]:
    return np.frombuffer(raw.data, dtype=np.float32).reshape(raw.shape).astype(np.float64)
