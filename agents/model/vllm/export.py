"""vLLM's parameters, moved into the shared mapping once they are loaded.

Invariant: after `export` every parameter lies in the mapping and nowhere else, the manifest that says where was
written last, and what is served is the active checkpoint (see `guardian.py`). A model that cannot be trained is
served as ever, and the reason is written where it is looked for.
"""

import logging
from pathlib import Path
from typing import Any

import torch

from agents.model.mapping import SharedWeights
from agents.model.vllm.configured import Configured
from agents.model.vllm.families import naming
from agents.model.vllm.guardian import Guardian, check_model
from agents.model.vllm.place import Place
from corpus.errors import IntegrityFault, NightschoolError

log = logging.getLogger("vllm.nightschool")  # below vLLM's own logger, so that its handler prints it


def export(model: torch.nn.Module, vllm_config: Any, found: Configured, place: Place) -> SharedWeights | None:
    """Share the weights of a loaded model; None, and the reason at `place`, where that cannot be."""
    try:
        place.take()
    except NightschoolError as fault:
        log.error("nightschool: %s. Serving on, untrained.", fault)
        return None
    try:
        config = vllm_config.model_config
        directory = model_directory(config.model)
        check_model(found, directory)
        named = dict(model.named_parameters(remove_duplicate=False))
        shared = SharedWeights.create(
            place.mapping,
            {name: parameter for name, parameter in named.items() if parameter.numel()},
            model=str(directory),
            naming=naming(config.hf_text_config),
            adopt=True,
        )
    except NightschoolError as fault:
        log.error("nightschool: %s. Serving on, untrained.", fault)
        place.refuse(str(fault))
        return None
    log.info("nightschool: %d bytes of weights shared in %s", shared.nbytes, place.directory)
    guardian = Guardian(shared, found)
    guardian.begin()
    guardian.watch()
    return shared


def model_directory(name: str) -> Path:
    """The directory that vLLM loaded this model from."""
    if Path(name).is_dir():
        return Path(name).resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True)).resolve()
    except (LocalEntryNotFoundError, ValueError) as error:
        raise IntegrityFault(f"{name} is on this machine under no directory ({error}); serve a directory") from error
