"""Hugging Face models whose parameters are views of the shared weights, so they compute with the served ones.

Invariant: the model's parameters and the manifest's entries match one to one, in name, shape and tying, or
nothing is built. No byte of a weight is copied, and no remote code runs. This module knows parameters only by
Hugging Face's names, which every manifest uses.
"""

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from agents.model.weights.shared import Entry, SharedWeights
from corpus.errors import IntegrityFault, UnsafeModel


def build(shared: SharedWeights, model_directory: Path) -> Any:
    """Return the causal language model of `model_directory`, in evaluation mode, on the shared weights.

    It is a `PreTrainedModel` in which tied parameters are one `Parameter` object.
    """
    model = _on_meta(model_directory)
    views = shared.tensors
    parameters = dict(model.named_parameters(remove_duplicate=False))
    _match(parameters, shared.entries, model_directory)
    replacements: dict[nn.Parameter, nn.Parameter] = {}
    for name, parameter in parameters.items():
        if parameter not in replacements:
            source = _served_name(name, parameter, parameters, views)
            replacements[parameter] = nn.Parameter(views[source])
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, replacements[parameter])
    _rebuild_buffers(model, next(iter(views.values())).device)
    return model.eval()


def require_match(entries: Iterable[Entry], model_directory: Path) -> None:
    """Raise `IntegrityFault`, which names the differences, unless `build` can use these entries."""
    _match(dict(_on_meta(model_directory).named_parameters(remove_duplicate=False)), entries, model_directory)


def _match(parameters: Mapping[str, nn.Parameter], entries: Iterable[Entry], model_directory: Path) -> None:
    if differences := _differences(parameters, {entry.name: entry for entry in entries}):
        raise IntegrityFault(
            f"{model_directory} and the served weights differ: {'; '.join(differences[:12])}"
            f"{' and more' if len(differences) > 12 else ''}; name the model that is served"
        )


def _on_meta(model_directory: Path) -> Any:
    """Return the model of this directory on torch's device `meta`, so without memory for its weights."""
    path = model_directory / "config.json"
    try:
        if "auto_map" in json.loads(path.read_text()):
            raise UnsafeModel(f"{path} asks to run code (auto_map); choose a model that transformers knows")
    except FileNotFoundError:
        raise IntegrityFault(f"{path} is missing; give the directory of a Hugging Face model") from None
    config = AutoConfig.from_pretrained(model_directory, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="sdpa")


def _served_name(
    name: str,
    parameter: nn.Parameter,
    parameters: Mapping[str, nn.Parameter],
    views: Mapping[str, torch.Tensor],
) -> str:
    """Return the name in `views` of this parameter; a tied parameter may have any of its names there.

    Args:
        name: The parameter's name in the model.
        parameter: The parameter.
        parameters: All parameters of the model by name, tied ones under each name.
        views: The shared weights by name.
    """
    names = [name, *(other for other, tied in parameters.items() if tied is parameter)]
    return next(candidate for candidate in names if candidate in views)


def _differences(parameters: Mapping[str, nn.Parameter], entries: Mapping[str, Entry]) -> list[str]:
    """Return one phrase for each difference in name, shape or tying; types may differ."""
    differences = [f"{name} is served but not in the model" for name in entries.keys() - parameters.keys()]
    places: dict[int, nn.Parameter] = {}
    tied: dict[nn.Parameter, int] = {}
    for name, parameter in parameters.items():
        if name not in entries:
            if not any(other in entries for other, twin in parameters.items() if twin is parameter):
                differences.append(f"{name} is not served")
            continue
        entry = entries[name]
        if entry.shape != tuple(parameter.shape):
            differences.append(f"{name} is {list(entry.shape)}, not {list(parameter.shape)}")
        if not prod(entry.shape):
            continue
        if places.setdefault(entry.offset, parameter) is not parameter:
            differences.append(f"{name} shares its place with another parameter")
        if tied.setdefault(parameter, entry.offset) != entry.offset:
            differences.append(f"{name} is tied in the model but has a place of its own")
    return sorted(differences)


def _rebuild_buffers(model: Any, device: torch.device) -> None:
    """Compute the model's buffers, which are no weights: rotary frequencies and the embedding's scale.

    Any other buffer raises `IntegrityFault`, because the configuration does not determine it.
    """
    for name, module in list(model.named_modules()):
        unset = {leaf for leaf, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        if not unset:
            continue
        if unset == {"embed_scale"} and hasattr(module, "scalar_embed_scale"):  # Gemma 3
            module.embed_scale = torch.tensor(module.scalar_embed_scale, device=device)
            continue
        if not name.endswith("rotary_emb"):
            raise IntegrityFault(
                f"{name} has buffers that the configuration does not determine; this model is not supported"
            )
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, type(module)(config=module.config).to(device))
