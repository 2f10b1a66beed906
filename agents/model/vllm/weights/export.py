"""vLLM's parameters, moved into the shared mapping once they are loaded.

Invariant: after `export` every parameter of the language model lies in the mapping and nowhere else, the manifest
that says where was written last, and what is served is the active checkpoint (see `guardian.py`). A model that
cannot be trained is served as ever, and the reason is written where it is looked for.
"""

import logging
from typing import Any

import torch

from agents.model.describe import directory_of
from agents.model.vllm.configured import Configured
from agents.model.vllm.place import Place
from agents.model.vllm.weights.families import family_of
from agents.model.vllm.weights.watchdog import Watchdog, check_model
from agents.model.weights.shared import Entry, SharedWeights
from agents.model.weights.views import require_match
from corpus.errors import GateRefused, HomeLocked, NightschoolError

log = logging.getLogger("vllm.nightschool")  # below vLLM's own logger, so that its handler prints it


def export(
    model: torch.nn.Module, vllm_config: Any, found: Configured, place: Place, refused: str = ""
) -> SharedWeights | None:
    """Share the weights of a loaded model; None, and the reason at `place`, where that cannot be.

    `refused` says that it was so known before: see `refusals.py`. A model that is refused is left as it is.
    """
    if refused and vllm_config.parallel_config.rank:
        return None  # the first of several workers speaks for all
    try:
        place.take()
        if refused:
            raise GateRefused(refused)
        shared = _share(model, vllm_config.model_config, found, place)
    except NightschoolError as fault:
        why = refused or str(fault)
        log.error("nightschool: %s. Serving on, untrained.", why)
        if not isinstance(fault, HomeLocked):
            place.refuse(why)
        return None
    log.info("nightschool: %d bytes of weights shared in %s", shared.nbytes, place.directory)
    guardian = Watchdog(shared, found)
    guardian.begin()
    guardian.watch()
    return shared


def _share(model: torch.nn.Module, config: Any, found: Configured, place: Place) -> SharedWeights:
    """Move the language model's parameters, once it is known that a trainer can have each of them."""
    family, directory = family_of(config.hf_text_config), directory_of(config.model)
    naming = family.naming(config.hf_text_config)
    check_model(found, directory)

    def checked(served: tuple[Entry, ...]) -> tuple[Entry, ...]:
        entries = naming(served)
        require_match(entries, directory)  # nothing has been moved yet
        return entries

    return SharedWeights.create(
        place.mapping,
        {
            name: parameter
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if parameter.numel() and family.has(name)
        },
        model=str(directory),
        naming=checked,
        adopt=True,
    )
