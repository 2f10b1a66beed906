"""Apollo's state for each parameter, and its form in a checkpoint.

Invariant: a state that is exported, written, read and imported is the same to the last bit, and it carries
the settings that it was made with. An optimizer's state whose moments belong to another rank, kind of
projection or model is refused. This module knows nothing about gradients.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from agents.trainer.apollo.projection import is_matrix, is_wide
from agents.trainer.memory_estimate import optimizer_state_bytes
from corpus.errors import TrainerFault

FORMAT = 2
"""Version of the state's format. In format 1 every matrix had its own projection, so those moments cannot be
used."""
_RECORDED = (
    *("lr", "rank", "betas", "eps", "weight_decay", "warmup_steps", "scale"),
    *("proj_refresh", "norm_growth_limit", "projection", "master_weights"),
)

Owned = tuple[torch.Tensor, dict[str, Any]]
"""A parameter, and the group with its settings."""


def moment_shape(parameter: torch.Tensor, group: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of the moments: (rank, cols) or (rows, rank) for a matrix, else the parameter's."""
    if not is_matrix(parameter):
        return tuple(parameter.shape)
    rows, cols = parameter.shape
    rank = min(group["rank"], rows, cols)
    return (rank, cols) if is_wide(parameter.shape) else (rows, rank)


def fresh(parameter: torch.Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state before the first step."""
    zeros = torch.zeros(moment_shape(parameter, group), device=parameter.device)
    state = {"step": 0, "moment1": zeros, "moment2": zeros.clone()}
    if is_matrix(parameter):
        state["norm"] = torch.zeros((), device=parameter.device)
    if _has_master(parameter, group):
        state["master"] = parameter.detach().to(torch.float32, copy=True)
    return state


def nbytes(owned: Sequence[Owned]) -> int:
    """Return about how many bytes the state takes once every parameter has been trained."""
    return sum(
        optimizer_state_bytes(tuple(parameter.shape), group["rank"], master=_has_master(parameter, group))
        for parameter, group in owned
    )


def export(
    owned: Sequence[Owned], names: Sequence[str], states: Mapping[Any, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the state as tensors: "format", "seed", "settings" (JSON), and "moment1.NAME" and so on."""
    groups = {id(group): group for _, group in owned}.values()
    text = json.dumps([{key: group[key] for key in _RECORDED} for group in groups], sort_keys=True).encode()
    exported = {
        "format": torch.tensor(FORMAT, dtype=torch.int64),
        "seed": torch.tensor(owned[0][1]["seed"], dtype=torch.int64),
        "settings": torch.tensor(list(text), dtype=torch.uint8),
    }
    for name, (parameter, _) in zip(_checked(names, owned), owned, strict=True):
        for key, value in states.get(parameter, {}).items():
            is_tensor = isinstance(value, torch.Tensor)
            exported[f"{key}.{name}"] = value.clone() if is_tensor else torch.tensor(value, dtype=torch.int64)
    return exported


def load(owned: Sequence[Owned], names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> dict[Any, Any]:
    """Return each parameter's state from exported tensors; raise TrainerFault if they do not fit."""
    if not fits(owned, names, tensors):
        raise TrainerFault(
            "this optimizer state was made with another rank, another projection or for another model; "
            "use the settings that it was made with, or start without the state"
        )
    states = {}
    for name, (parameter, group) in zip(names, owned, strict=True):
        if f"step.{name}" not in tensors:
            continue
        state = fresh(parameter, group)
        for key, value in state.items():
            if key != "step" and f"{key}.{name}" in tensors:
                value.copy_(tensors[f"{key}.{name}"])
        if "master" in state:  # where a weight was changed by something else, its master restarts from it
            unchanged = state["master"].to(parameter.dtype) == parameter
            state["master"] = torch.where(unchanged, state["master"], parameter.detach().to(torch.float32))
        states[parameter] = state | {"step": int(tensors[f"step.{name}"])}
    return states


def fits(owned: Sequence[Owned], names: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Return whether exported tensors have the format, projections and shapes that `owned` needs."""
    if "format" not in tensors or int(tensors["format"]) != FORMAT:
        return False
    made = {settings["projection"] for settings in json.loads(bytes(tensors["settings"].tolist()))}
    if made != {group["projection"] for _, group in owned}:
        return False
    shapes = {name: moment_shape(*of) for name, of in zip(_checked(names, owned), owned, strict=True)}
    moments = {key: tuple(tensor.shape) for key, tensor in tensors.items() if key.startswith("moment")}
    return all(shapes.get(key.partition(".")[2]) == shape for key, shape in moments.items())


def _checked(names: Sequence[str], owned: Sequence[Owned]) -> Sequence[str]:
    """Return the names, or raise ValueError unless each parameter has its own."""
    if len(names) != len(owned) or len(set(names)) != len(names):
        raise ValueError("one name for each parameter, no name twice")
    return names


def _has_master(parameter: torch.Tensor, group: Mapping[str, Any]) -> bool:
    """Return whether the parameter has a float32 master copy."""
    return bool(group["master_weights"]) and parameter.dtype == torch.bfloat16
