"""The export of vLLM's parameters into shared weights, as soon as vLLM has loaded them.

Invariant: after `export` every parameter of the language model lies in the shared weights and nowhere else,
the manifest was written last, and the active checkpoint is served (see `watchdog`). A model that cannot be
trained is served as it is, and the reason is logged and recorded in the served directory.
"""

import logging
from typing import Any

import torch

from agents.model.describe import directory_of
from agents.model.vllm.config import PluginConfig
from agents.model.vllm.served_directory import ServedDirectory
from agents.model.vllm.weights.families import family_of
from agents.model.vllm.weights.watchdog import Watchdog, check_model
from agents.model.weights.shared import Entry, SharedWeights
from agents.model.weights.views import require_match
from corpus.errors import GateRefused, HomeLocked, NightschoolError

log = logging.getLogger("vllm.nightschool")  # below vLLM's own logger, so that its handler prints it


def export(
    model: torch.nn.Module,
    vllm_config: Any,
    config: PluginConfig,
    directory: ServedDirectory,
    refused: str = "",
) -> SharedWeights | None:
    """Move the weights of a loaded model into shared weights, and start the watchdog over them.

    Args:
        model: The model as vLLM loaded it.
        vllm_config: vLLM's own configuration.
        config: The home that the plugin works for.
        directory: The directory that the weights are shared in.
        refused: The reason why the model cannot be trained, from `refusals.reason`; "" if it can.

    Returns:
        The shared weights; None for a model that cannot be trained, which is left as it is.
    """
    if refused and vllm_config.parallel_config.rank:
        return None  # of several workers, only the first one reports the reason
    try:
        directory.acquire()
        if refused:
            raise GateRefused(refused)
        shared = _share(model, vllm_config.model_config, config, directory)
    except NightschoolError as error:
        reason = refused or str(error)
        log.error("nightschool: %s. Serving on, untrained.", reason)
        if not isinstance(error, HomeLocked):
            directory.refuse(reason)
        return None
    log.info("nightschool: %d bytes of weights shared in %s", shared.nbytes, directory.directory)
    watchdog = Watchdog(shared, config)
    watchdog.restore_at_start()
    watchdog.start()
    return shared


def _share(
    model: torch.nn.Module, model_config: Any, config: PluginConfig, directory: ServedDirectory
) -> SharedWeights:
    """Move the language model's parameters into shared weights, and return these.

    Before anything is moved, it is checked that the trainer can build the same model on them.
    """
    family, model_dir = family_of(model_config.hf_text_config), directory_of(model_config.model)
    naming = family.naming(model_config.hf_text_config)
    check_model(config, model_dir)

    def checked(served: tuple[Entry, ...]) -> tuple[Entry, ...]:
        entries = naming(served)
        require_match(entries, model_dir)  # nothing has been moved yet
        return entries

    return SharedWeights.create(
        directory.weights_file,
        {
            name: parameter
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if parameter.numel() and family.has(name)
        },
        model=str(model_dir),
        naming=checked,
        adopt=True,
    )
