"""The directory of a home's model: the configured one, the shipped one, or the one that a vLLM serves.

Invariant: the model of a home never changes, and is identified by its digest. This module knows nothing about
weights and starts nothing, so commands that only look at a home import it instead of the model servers.
"""

from pathlib import Path

from agents.model.client import ServedModel
from agents.model.describe import digest, directory_of, is_shipped
from agents.model.vllm.served_directory import ServedDirectory
from corpus.behaviour import Behaviour
from corpus.errors import ConfigError, IntegrityFault
from corpus.recipe import MODEL_DIR
from loop.config import Settings
from store.home import Home


def model_directory(settings: Settings, home: Home) -> Path | None:
    """Return the Hugging Face directory of the home's model.

    Return None if the home uses a vLLM, `model.path` is not set, and no vLLM shares its weights now.
    """
    if settings.model.path:
        return Path(settings.model.path)
    return served_directory(ServedDirectory(home.served_dir)) if settings.model.url else MODEL_DIR


def served_directory(place: ServedDirectory) -> Path | None:
    """Return the directory of the model that a vLLM has loaded; None if no vLLM shares weights there.

    Args:
        place: The folder in which the vLLM shares its weights.
    """
    manifest = place.manifest() if place.is_served() else None
    return manifest.model if manifest else None


def named_directory(model: ServedModel) -> Path:
    """Return the Hugging Face directory of a served model; raise `ConfigError` if it is not on this machine.

    The server names the model by its directory, or by its name on the Hugging Face hub.
    """
    try:
        return directory_of(model.root)
    except IntegrityFault as fault:
        raise ConfigError(f"{fault}, or set model.path") from fault


def behaviours_of(home: Home, model_digest: str) -> dict[str, Behaviour]:
    """Return the behaviours that a home's model is taught and measured on, by name.

    The shipped behaviours are about the shipped model's small world. A home of another model has only those
    that its user declared.

    Args:
        home: The home.
        model_digest: Digest of the home's model.
    """
    return home.behaviours(shipped=is_shipped(model_digest))


def require_model(model_dir: Path, wanted: str, cure: str, who: str = "") -> None:
    """Raise `ConfigError` unless a directory holds the model that the home was initialised with.

    Args:
        model_dir: Hugging Face directory of the model to check.
        wanted: Digest of the home's model.
        cure: Advice for the message: how to use the home's model again.
        who: Start of the message: what uses the other model.
    """
    if digest(model_dir) != wanted:
        raise ConfigError(
            f"{who}this home was initialised with another model than {model_dir}: "
            f"{cure}, or make a new home for the new model"
        )
