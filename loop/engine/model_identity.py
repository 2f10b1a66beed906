"""The model of a home: the configured directory, the shipped one, or the one that a vLLM serves.

Invariant: a home has one model for good, known by its digest. This module knows nothing about weights, and
starts nothing: commands that only look at a home import it instead of the servers.
"""

from pathlib import Path

from agents.model.client import ServedModel
from agents.model.describe import digest, directory_of
from agents.model.vllm.served_directory import ServedDirectory
from corpus.errors import ConfigError, IntegrityFault
from corpus.recipe import MODEL_DIR
from loop.config import Settings
from store.home import Home


def model_directory(settings: Settings, home: Home) -> Path | None:
    """Return the Hugging Face directory; None if only a vLLM knows it and none runs."""
    if settings.model.path:
        return Path(settings.model.path)
    return served_directory(ServedDirectory(home.served_dir)) if settings.model.url else MODEL_DIR


def served_directory(place: ServedDirectory) -> Path | None:
    """Return the directory of the model that the vLLM at this place has loaded; None if it shares nothing."""
    manifest = place.manifest() if place.is_served() else None
    return manifest.model if manifest else None


def named_directory(model: ServedModel) -> Path:
    """Return the directory of a model that is served under a directory's name, or under a name on the hub."""
    try:
        return directory_of(model.root)
    except IntegrityFault as fault:
        raise ConfigError(f"{fault}, or set model.path") from fault


def require_model(model_dir: Path, wanted: str, cure: str, who: str = "") -> None:
    """Raise `ConfigError` unless this is the model that the home was initialised with.

    Args:
        model_dir: The model's Hugging Face directory.
        wanted: Digest of the home's model.
        cure: How to get back to it, for the message.
        who: Who brings the other model, for the start of the message.
    """
    if digest(model_dir) != wanted:
        raise ConfigError(
            f"{who}this home was initialised with another model than {model_dir}: "
            f"{cure}, or make a new home for the new model"
        )
