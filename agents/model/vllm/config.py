"""The plugin's configuration, read from the home that names this vLLM.

The home is NIGHTSCHOOL_HOME or the platform's default, and its `model.url` must be set. Invariant: without a
home or a url the plugin does nothing and logs nothing. This module is separate, because every process of vLLM
runs it before it imports larger ones. It knows nothing about vLLM.
"""

import os
import tomllib
from dataclasses import dataclass, fields

from pydantic import TypeAdapter, ValidationError

from agents.model.settings import ModelSettings
from corpus.errors import ConfigError
from store.home import Home, locate

PLUGIN_NAME = "nightschool"
"""Name of the plugin in the two groups of entry points through which vLLM loads it."""
_PREFIX = "NIGHTSCHOOL_MODEL__"
"""Prefix of the environment variables that override settings of the file, as in the service."""


@dataclass(frozen=True, kw_only=True)
class PluginConfig:
    """The home that the plugin works for."""

    home: Home
    model: ModelSettings
    database: str
    """SQLAlchemy URL of the ledger; "" for the ledger's file in the home."""


def read_config() -> PluginConfig | None:
    """Return the plugin's configuration; None if there is no home, or the home names no vLLM."""
    home = locate(None)
    if not home.config_file.is_file():
        return None
    try:
        table = tomllib.loads(home.config_file.read_text())
        names = {f"{_PREFIX}{field.name.upper()}": field.name for field in fields(ModelSettings)}
        environment = {name: os.environ[key] for key, name in names.items() if key in os.environ}
        model = TypeAdapter(ModelSettings).validate_python({**table.get("model", {}), **environment})
    except (ValueError, ValidationError) as error:
        raise ConfigError(f"{home.config_file}: {error}") from error
    database = os.environ.get("NIGHTSCHOOL_DATABASE", table.get("database", ""))
    return PluginConfig(home=home, model=model, database=database) if model.url else None
