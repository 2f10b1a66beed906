"""Has vLLM find our routes (`routes.py`) with nothing set.

vLLM loads plugins for routes only when VLLM_PLUGINS names them, and warns of those it does not load. A home that names
this vLLM is said enough, so ours is added to those that vLLM finds. Invariant: other people's plugins are loaded, or
warned of, as without ours; ours is loaded once, only with a home, and without one it is not spoken of. Light: this
runs in every process of vLLM.
"""

from typing import Any

from agents.model.vllm.configured import Configured

NAME = "nightschool"


def install(found: Configured | None) -> None:
    """Have vLLM find our routes without VLLM_PLUGINS; without a home, not warn of them."""
    import vllm.plugins

    find = vllm.plugins.load_endpoint_plugins
    if hasattr(find, NAME):
        return

    def load_endpoint_plugins(supported_tasks: tuple[str, ...] | None = None) -> list[Any]:
        plugins = [] if _alone() else list(find(supported_tasks))
        wanted = found is not None and "generate" in (supported_tasks or ())
        if wanted and not any(plugin.name == NAME for plugin in plugins):
            from agents.model.vllm.routes.plugin import Plugin

            plugins.append(Plugin())
        return plugins

    setattr(load_endpoint_plugins, NAME, True)
    vllm.plugins.load_endpoint_plugins = load_endpoint_plugins


def _alone() -> bool:
    """Whether vLLM would find our plugin and no other, warn that VLLM_PLUGINS does not name it, and load none."""
    from importlib.metadata import entry_points

    import vllm.envs
    import vllm.plugins

    group = entry_points(group=vllm.plugins.ENDPOINT_PLUGINS_GROUP)
    return vllm.envs.VLLM_PLUGINS is None and {one.name for one in group} <= {NAME}
