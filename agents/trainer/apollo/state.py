"""Apollo's state: what is kept for each parameter, and how it goes to a checkpoint and comes back.

Invariant: exported, written, read and imported, it is the same state to the last bit, and it carries the settings
that it was made with. A state whose moments would mean something else here does not fit. Knows no gradient.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from agents.trainer.apollo.projection import is_matrix, is_wide
from corpus.errors import TrainerFault

FORMAT = 2
"""1 had a projection of its own for each matrix: its moments mean nothing here."""
_RECORDED = (
    *("lr", "rank", "betas", "eps", "weight_decay", "warmup_steps", "scale"),
    *("proj_refresh", "norm_growth_limit", "projection", "master_weights"),
)

Owned = tuple[torch.Tensor, dict[str, Any]]
"""A parameter, and the group with its settings."""


def moment_shape(parameter: torch.Tensor, group: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the moments: those of R for a matrix, (rank, cols) or (rows, rank); else the parameter's own."""
    if not is_matrix(parameter):
        return tuple(parameter.shape)
    rows, cols = parameter.shape
    rank = min(group["rank"], rows, cols)
    return (rank, cols) if is_wide(parameter.shape) else (rows, rank)


def fresh(parameter: torch.Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
    """The state before the first step."""
    zeros = torch.zeros(moment_shape(parameter, group), device=parameter.device)
    state = {"step": 0, "moment1": zeros, "moment2": zeros.clone()}
    if is_matrix(parameter):
        state["norm"] = torch.zeros((), device=parameter.device)
    if _has_master(parameter, group):
        state["master"] = parameter.detach().to(torch.float32, copy=True)
    return state


def nbytes(owned: Sequence[Owned]) -> int:
    """Bytes of the state once every parameter was trained, but for some for each of them."""
    moments = sum(8 * math.prod(moment_shape(parameter, group)) for parameter, group in owned)
    return moments + sum(4 * parameter.numel() for parameter, group in owned if _has_master(parameter, group))


def export(
    owned: Sequence[Owned], names: Sequence[str], states: Mapping[Any, Mapping[str, Any]]
) -> dict[str, Any]:
    """Named tensors: format, seed, settings (JSON as bytes), and "moment1.NAME" and so on for each parameter."""
    groups = {id(group): group for _, group in owned}.values()
    text = json.dumps([{key: group[key] for key in _RECORDED} for group in groups], sort_keys=True).encode()
    exported = {
        "format": torch.tensor(FORMAT, dtype=torch.int64),
        "seed": torch.tensor(owned[0][1]["seed"], dtype=torch.int64),
        "settings": torch.tensor(list(text), dtype=torch.uint8),
    }
    for name, (parameter, _) in zip(_checked(names, owned), owned, strict=True):
        for key, value in states.get(parameter, {}).items():
            kept = (
                value.clone() if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.int64)
            )
            exported[f"{key}.{name}"] = kept
    return exported


def load(owned: Sequence[Owned], names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> dict[Any, Any]:
    """The state of each parameter that has one; refuses what does not fit."""
    if not fits(owned, names, tensors):
        raise TrainerFault(
            "this optimizer state was made with another rank, another projection or for another model; "
            "set what it was made with, or start without the state"
        )
    states = {}
    for name, (parameter, group) in zip(names, owned, strict=True):
        if f"step.{name}" not in tensors:
            continue
        state = fresh(parameter, group)
        for key, value in state.items():
            if key != "step" and f"{key}.{name}" in tensors:
                value.copy_(tensors[f"{key}.{name}"])
        if "master" in state:  # where the weights were changed by other means, their masters start from them
            held = parameter.detach().to(torch.float32)
            state["master"] = torch.where(
                state["master"].to(parameter.dtype) == parameter, state["master"], held
            )
        states[parameter] = state | {"step": int(tensors[f"step.{name}"])}
    return states


def fits(owned: Sequence[Owned], names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether this state's moments have the shapes and the projections that these settings ask for."""
    if "format" not in tensors or int(tensors["format"]) != FORMAT:
        return False
    made = {settings["projection"] for settings in json.loads(bytes(tensors["settings"].tolist()))}
    if made != {group["projection"] for _, group in owned}:
        return False
    shapes = {name: moment_shape(*of) for name, of in zip(_checked(names, owned), owned, strict=True)}
    moments = {key: tuple(tensor.shape) for key, tensor in tensors.items() if key.startswith("moment")}
    return all(shapes.get(key.partition(".")[2]) == shape for key, shape in moments.items())


def _checked(names: Sequence[str], owned: Sequence[Owned]) -> Sequence[str]:
    if len(names) != len(owned) or len(set(names)) != len(names):
        raise ValueError("one name for each parameter, no name twice")
    return names


def _has_master(parameter: torch.Tensor, group: Mapping[str, Any]) -> bool:
    return bool(group["master_weights"]) and parameter.dtype == torch.bfloat16
