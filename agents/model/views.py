"""A Hugging Face model whose parameters are views of the shared mapping: reading it reads what is served.

Invariant: parameters and mapping match one to one, in name, shape and tying, or nothing is built. No byte of
a weight is copied, no remote code is run. Knows one naming, that of Hugging Face, which every manifest has.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from agents.model.mapping import SharedWeights
from corpus.errors import IntegrityFault, UnsafeModel


def build(shared: SharedWeights, model_directory: Path) -> Any:
    """The causal language model of `model_directory` on the mapping's weights, in evaluation mode.

    Returns a `PreTrainedModel`; tied parameters are one `Parameter` object.
    """
    model = _on_meta(model_directory)
    views = shared.tensors
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if differences := _differences(parameters, views):
        raise IntegrityFault(
            f"{model_directory} and the served weights differ: {'; '.join(differences[:12])}"
            f"{' and more' if len(differences) > 12 else ''}; name the model that is served"
        )
    placed: dict[nn.Parameter, nn.Parameter] = {}
    for name, parameter in parameters.items():
        if parameter not in placed:
            source = _first_name(name, parameter, parameters, views)
            placed[parameter] = nn.Parameter(views[source])
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, placed[parameter])
    _rebuild_buffers(model, next(iter(views.values())).device)
    return model.eval()


def _on_meta(model_directory: Path) -> Any:
    """The model without weights."""
    path = model_directory / "config.json"
    try:
        if "auto_map" in json.loads(path.read_text()):
            raise UnsafeModel(f"{path} asks to run code (auto_map); choose a model that transformers knows")
    except FileNotFoundError:
        raise IntegrityFault(f"{path} is missing; give the directory of a Hugging Face model") from None
    config = AutoConfig.from_pretrained(model_directory, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="sdpa")


def _first_name(
    name: str,
    parameter: nn.Parameter,
    parameters: Mapping[str, nn.Parameter],
    views: Mapping[str, torch.Tensor],
) -> str:
    """A name of this parameter that the mapping has; a tied one may be listed under either name."""
    names = [name, *(other for other, tied in parameters.items() if tied is parameter)]
    return next(candidate for candidate in names if candidate in views)


def _differences(parameters: Mapping[str, nn.Parameter], views: Mapping[str, torch.Tensor]) -> list[str]:
    """What keeps these from matching one to one, one line each."""
    found = [f"{name} is served but not in the model" for name in views.keys() - parameters.keys()]
    places: dict[int, nn.Parameter] = {}
    tied: dict[nn.Parameter, int] = {}
    for name, parameter in parameters.items():
        if name not in views:
            if not any(other in views for other, twin in parameters.items() if twin is parameter):
                found.append(f"{name} is not served")
            continue
        view = views[name]
        if view.shape != parameter.shape:
            found.append(f"{name} is {list(view.shape)}, not {list(parameter.shape)}")
        if view.numel() == 0:
            continue
        if places.setdefault(view.data_ptr(), parameter) is not parameter:
            found.append(f"{name} shares its place with another parameter")
        if tied.setdefault(parameter, view.data_ptr()) != view.data_ptr():
            found.append(f"{name} is tied in the model but has a place of its own")
    return sorted(found)


def _rebuild_buffers(model: Any, device: torch.device) -> None:
    """Compute anew what is not a weight: rotary frequencies are made from the configuration alone."""
    for name, module in list(model.named_modules()):
        if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            continue
        if not name.endswith("rotary_emb"):
            raise IntegrityFault(f"{name} has buffers that no configuration gives; this model is not supported")
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, type(module)(config=module.config).to(device))
