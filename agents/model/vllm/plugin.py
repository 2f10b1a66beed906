"""The vLLM plugin: what `vllm serve` runs at its start, in every one of its processes.

Invariant: without a home that names a vLLM (`model.url`) it serves as without us, and nothing is said (the one thing
wrapped then keeps vLLM from warning of our routes, see `enlist.py`); called again it changes nothing. Only vLLM's own
functions are wrapped, each in one place. Knows no weights.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.util import Finalize
from typing import Any

from agents.model.vllm.configured import Configured, configured
from agents.model.vllm.place import Place
from corpus.errors import ConfigError

log = logging.getLogger("vllm.nightschool")  # below vLLM's own logger, so that its handler prints it
_MARK = "_nightschool"


def register() -> None:
    """Entry point of the group `vllm.general_plugins`."""
    from agents.model.vllm.routes import enlist

    try:
        found = configured()
    except ConfigError as fault:
        log.error("nightschool: %s. Serving on, untrained.", fault)
        found = None
    enlist.install(found)
    if found is None:
        return
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    if hasattr(BaseModelLoader, _MARK):
        return
    setattr(BaseModelLoader, _MARK, True)
    from agents.model.steering import wire
    from agents.model.vllm import salt
    from agents.model.vllm.weights import plain

    salt.install(found)
    salt.add_part(wire.salt_part)
    plain.convolutions()
    _export_after_load(BaseModelLoader, found)
    _at_exit(Place(found.home.served_dir).sweep)  # the server's own end may have been a hard one


def _export_after_load(loader: Any, found: Configured) -> None:
    """Share the weights as soon as they are there."""
    load = loader.load_model

    def load_model(self: Any, vllm_config: Any, model_config: Any, *more: Any, **named: Any) -> Any:
        from agents.model.vllm import seeds
        from agents.model.vllm.readout import hooks
        from agents.model.vllm.weights import plain, refusals
        from agents.model.vllm.weights.export import export

        if model_config.runner_type == "draft":  # it guesses for the model; it is not the model
            return load(self, vllm_config, model_config, *more, **named)
        seeds.install()
        refused = refusals.reason(vllm_config)
        with nullcontext() if refused else plain.linears():
            model = load(self, vllm_config, model_config, *more, **named)
        place = Place(found.home.served_dir)
        _at_exit(place.leave)
        if export(model, vllm_config, found, place, refused) is not None:
            hooks.install(model, vllm_config, found)
        return model

    loader.load_model = load_model


def _at_exit(leave: Callable[[], None]) -> None:
    """Have this done when this process and its children end; `atexit` is not called in processes that vLLM forks."""
    Finalize(None, leave, exitpriority=-1)
