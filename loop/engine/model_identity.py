"""Which model this home is of: the directory that is configured, the shipped one, or the one that a vLLM serves.

Invariant: a home is of one model for good, known by its digest. Knows no weights.
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
    """The Hugging Face directory; None when only a vLLM could say, and it does not."""
    if settings.model.path:
        return Path(settings.model.path)
    return served(ServedDirectory(home.served_dir)) if settings.model.url else MODEL_DIR


def served(place: ServedDirectory) -> Path | None:
    """What the living vLLM at this place has loaded; None when it shares nothing."""
    manifest = place.manifest() if place.is_served() else None
    return Path(manifest["model"]) if manifest else None


def named(model: ServedModel) -> Path:
    """The directory of a model that was served under a directory's name, or a name on the hub."""
    try:
        return directory_of(model.root)
    except IntegrityFault as fault:
        raise ConfigError(f"{fault}, or set model.path") from fault


def require(model_dir: Path, wanted: str, cure: str, who: str = "") -> None:
    """Refuse another model than the one that the home was begun with."""
    if digest(model_dir) != wanted:
        raise ConfigError(
            f"{who}this home was begun with another model than {model_dir}: "
            f"{cure}, or make a new home for the new model"
        )
