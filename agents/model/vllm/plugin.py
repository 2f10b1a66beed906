"""The entry point of the plugin, which `vllm serve` calls at the start of each of its processes.

Invariant: if no home names a vLLM (`model.url`), vLLM serves as without the plugin, and nothing is logged.
Even then one function is wrapped, because vLLM would otherwise warn about our routes. A second call of
`register` changes nothing. Only functions of vLLM are wrapped, each in one place. This module knows nothing
about weights.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.util import Finalize
from typing import Any

from agents.model.vllm.config import PLUGIN_NAME, PluginConfig, read_config
from agents.model.vllm.served_directory import ServedDirectory
from corpus.errors import ConfigError

log = logging.getLogger("vllm.nightschool")  # below vLLM's own logger, so that its handler prints it
_MARK = "_nightschool"


def register() -> None:
    """Install the plugin in this process of vLLM: the entry point of the group `vllm.general_plugins`."""
    try:
        config = read_config()
    except ConfigError as error:
        log.error("nightschool: %s. Serving on, untrained.", error)
        config = None
    add_endpoints(config)
    if config is None:
        return
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    if hasattr(BaseModelLoader, _MARK):
        return
    setattr(BaseModelLoader, _MARK, True)
    from agents.model.steering import wire
    from agents.model.vllm import cpu, salt

    salt.install(config)
    salt.add_part(wire.salt_part)
    cpu.accept_plain_convolutions()
    _export_after_load(BaseModelLoader, config)
    _at_exit(ServedDirectory(config.home.served_dir).sweep)  # the child that serves may have been killed


def add_endpoints(config: PluginConfig | None) -> None:
    """Wrap vLLM's loader of plugins for routes, so that a home alone decides whether ours is loaded.

    vLLM loads a plugin for routes only if VLLM_PLUGINS names it, and warns about each plugin that it does not
    load. With a home that names this vLLM, our routes are added to any model that generates text. Without one
    they are not, and vLLM does not warn about them. Other plugins are loaded, or warned about, as without
    ours.

    Args:
        config: The configuration of the home that names this vLLM; None if there is no such home.
    """
    import vllm.plugins

    load = vllm.plugins.load_endpoint_plugins
    if hasattr(load, _MARK):
        return

    def load_endpoint_plugins(supported_tasks: tuple[str, ...] | None = None) -> list[Any]:
        plugins = [] if _only_ours_is_ignored() else list(load(supported_tasks))
        wanted = config is not None and "generate" in (supported_tasks or ())
        if wanted and not any(plugin.name == PLUGIN_NAME for plugin in plugins):
            from agents.model.vllm.routes.plugin import Plugin

            plugins.append(Plugin())
        return plugins

    setattr(load_endpoint_plugins, _MARK, True)
    vllm.plugins.load_endpoint_plugins = load_endpoint_plugins


def _only_ours_is_ignored() -> bool:
    """Return whether our plugin for routes is the only one, and VLLM_PLUGINS is not set.

    In this case vLLM loads no plugin for routes, and warns about ours.
    """
    from importlib.metadata import entry_points

    import vllm.envs
    import vllm.plugins

    group = entry_points(group=vllm.plugins.ENDPOINT_PLUGINS_GROUP)
    return vllm.envs.VLLM_PLUGINS is None and {plugin.name for plugin in group} <= {PLUGIN_NAME}


def _export_after_load(loader: Any, config: PluginConfig) -> None:
    """Wrap vLLM's loader, so that the weights are shared as soon as they are loaded."""
    load = loader.load_model

    def load_model(self: Any, vllm_config: Any, model_config: Any, *more: Any, **named: Any) -> Any:
        from agents.model.vllm import cpu
        from agents.model.vllm.readout import hooks
        from agents.model.vllm.weights import refusals
        from agents.model.vllm.weights.export import export

        if model_config.runner_type == "draft":  # a small model that drafts tokens for the served one
            return load(self, vllm_config, model_config, *more, **named)
        cpu.restart_generators()
        refused = refusals.reason(vllm_config)
        with nullcontext() if refused else cpu.plain_linears():
            model = load(self, vllm_config, model_config, *more, **named)
        directory = ServedDirectory(config.home.served_dir)
        _at_exit(directory.release)
        if export(model, vllm_config, config, directory, refused) is not None:
            hooks.install(model, vllm_config, config)
        return model

    loader.load_model = load_model


def _at_exit(call: Callable[[], None]) -> None:
    """Call `call` at the end of this process, after its child processes have ended.

    Unlike `atexit`, this also works in processes that vLLM forks.
    """
    Finalize(None, call, exitpriority=-1)
