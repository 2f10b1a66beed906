"""Whether this vLLM is to be trained, and from which home: what the plugin reads before it does anything.

The home is NIGHTSCHOOL_HOME or the platform's place; its `model.url` must be set. Invariant: no home, or no url,
and the plugin does nothing and says nothing. Knows no vLLM.
"""

import os
import tomllib
from dataclasses import dataclass, fields

from pydantic import TypeAdapter, ValidationError

from agents.model.settings import ModelSettings
from corpus.errors import ConfigError
from store.home import Home, locate

_PREFIX = "NIGHTSCHOOL_MODEL__"
"""The environment goes before the file, as in the service."""


@dataclass(frozen=True, kw_only=True)
class Configured:
    """What the plugin works for."""

    home: Home
    model: ModelSettings
    database: str
    """SQLAlchemy URL of the ledger; "" for the home's file."""


def configured() -> Configured | None:
    """The home that names a vLLM, if there is one."""
    home = locate(None)
    if not home.config_file.is_file():
        return None
    try:
        told = tomllib.loads(home.config_file.read_text())
        names = {f"{_PREFIX}{field.name.upper()}": field.name for field in fields(ModelSettings)}
        environment = {name: os.environ[key] for key, name in names.items() if key in os.environ}
        model = TypeAdapter(ModelSettings).validate_python({**told.get("model", {}), **environment})
    except (ValueError, ValidationError) as error:
        raise ConfigError(f"{home.config_file}: {error}") from error
    database = os.environ.get("NIGHTSCHOOL_DATABASE", told.get("database", ""))
    return Configured(home=home, model=model, database=database) if model.url else None
