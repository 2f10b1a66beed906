"""The download of a model from the Hugging Face hub: safetensors, tokenizer and configuration at one commit.

Invariant: code and pickles are never downloaded, and a configuration that names code is refused before the
weights are downloaded. A failed download leaves no files.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents.model.safety import check_config_files, check_model_dir
from agents.model.sources.card import write_card
from agents.model.sources.directory import check_conversational, check_weights
from agents.model.sources.folder import new_folder, require_room
from agents.model.sources.named import HubSource
from corpus.errors import ConfigError, GateRefused

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
    "LICENSE",
)
"""The files that are downloaded besides the weights, where the model has them."""
_HTTP_LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "requests"})
"""HTTP packages that versions of huggingface_hub use; it passes their errors on unchanged."""
TIMEOUT_SECONDS = 30
"""Longest wait in seconds for the hub's description of a model."""
_WEIGHTS_NAME = re.compile(r"[\w.-]+\.safetensors")
INDEX = "model.safetensors.index.json"
NOTES = "Nightschool downloaded these files once, at this commit. The original model's own licence holds."


def download(
    source: HubSource, target: Path, on_file: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Download a model from the hub into the new directory `target`.

    Args:
        source: The model and its revision.
        target: The directory, which does not exist yet or is empty.
        on_file: Called after each file of weights with the number of files done, and the number of all files.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    with _explained(source):
        info = hub.model_info(
            source.name, revision=source.revision, files_metadata=True, timeout=TIMEOUT_SECONDS
        )
    commit, sizes = str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or ()}
    with new_folder(target) as folder:
        for name in filter(sizes.__contains__, SMALL_FILES):
            _fetch(hub, source, commit, folder, name)
        check_config_files(folder)
        check_conversational(folder)
        weights = _weights(source, folder, sizes)
        require_room(folder, sum(sizes[name] for name in weights))
        for done, name in enumerate(weights, 1):
            _fetch(hub, source, commit, folder, name)
            on_file(done, len(weights))
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        _write_card(source, folder, commit, info.card_data)
        check_model_dir(folder)
        check_weights(folder)


def _fetch(hub: Any, source: HubSource, commit: str, folder: Path, name: str) -> None:
    """Download the file `name` at this commit into the folder."""
    with _explained(source):
        hub.hf_hub_download(source.name, name, revision=commit, local_dir=folder)


def record_of(source: HubSource) -> dict[str, str]:
    """Return the fields of a directory's record that identify this model as the source."""
    return {"kind": "hub", "name": source.name, "asked for": source.revision}


def _weights(source: HubSource, folder: Path, sizes: dict[str, int]) -> list[str]:
    """Return the names of the model's files of weights; raise `ConfigError` if it has no safetensors.

    `folder` has the small files already, and `sizes` has the size of each file on the hub.
    """
    if (folder / INDEX).is_file():
        try:
            listed = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"{source.name} has an index of its weights that makes no sense: {error}"
            ) from error
    else:
        listed = {"model.safetensors"}
    if not listed <= sizes.keys() or not all(map(_WEIGHTS_NAME.fullmatch, listed)):
        raise ConfigError(
            f"{source.name} offers no safetensors at {source.revision}: name another model, or convert its "
            "weights and name the directory"
        )
    return sorted(listed)


def _write_card(source: HubSource, folder: Path, commit: str, card: Any) -> None:
    """Write the card and the record of the directory; `card` is the hub's data about the model."""
    licence = getattr(card, "license", None)
    write_card(
        folder,
        title=source.name,
        record={**record_of(source), "revision": commit},
        notes=NOTES,
        front={"base_model": source.name} | ({"license": licence} if isinstance(licence, str) else {}),
    )


@contextmanager
def _explained(source: HubSource) -> Iterator[None]:
    """Turn the hub's errors inside the block into errors of ours, with one sentence that names the cure."""
    from huggingface_hub import errors

    name = source.name
    try:
        yield
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"{name} is given only to those who accept its terms: accept them on its page, set HF_TOKEN, and "
            "try again"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(
            f"{name} has no revision {source.revision!r}: name a branch, tag or commit"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ConfigError(
            f"there is no directory {name} here and no model of that name on the hub "
            "(a private one needs HF_TOKEN)"
        ) from error
    except Exception as error:
        if not (isinstance(error, _network_errors()) or _library(error) in _HTTP_LIBRARIES):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise GateRefused(
            f"{name} cannot be downloaded, because the hub does not answer ({reason[0]}): try again with a "
            "network, or download it on another machine and name the directory with `init --model DIR`"
        ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of huggingface_hub that mean that the hub cannot be reached."""
    from huggingface_hub import errors

    return errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, errors.HfHubHTTPError


def _library(error: Exception) -> str:
    """Return the name of the package that defines the error's class."""
    return type(error).__module__.partition(".")[0]
