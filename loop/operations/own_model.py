"""The preparation of a user's own model for a home: check a directory, convert a GGUF file, or download.

Invariant: if the home did not exist before, a failure leaves no home behind. A model that is already in the
home is not converted or downloaded again.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from agents.model.safety import check_model_dir
from agents.model.sources.card import read_record
from agents.model.sources.directory import check_causal, check_conversational, check_weights
from agents.model.sources.installed import smollm2_file
from agents.model.sources.named import DirectorySource, GgufSource, HubSource, read_source
from corpus.errors import UsageError
from loop.config import load_settings
from loop.operations.results.home import ModelMade
from store.home import Home

OnPart = Callable[[int, int], None]
"""A function that receives progress: the number of parts that are done, and the number of all parts."""


def ready_model(home: Home, text: str, *, is_served: bool, on_part: OnPart) -> Path:
    """Return the Hugging Face directory of the named model.

    A GGUF file is converted, and a model on the hub is downloaded, to a directory in the home.

    Args:
        home: The home, which need not exist yet.
        text: Name of the model: a directory, a GGUF file, or a name on the hub.
        is_served: Whether a vLLM serves the model; a chat template in the directory is then not required.
        on_part: Called with the progress of a conversion or download.
    """
    source = read_source(text)
    if isinstance(source, DirectorySource):
        check_model_dir(source.path)
        if is_served:
            check_causal(source.path)
        else:
            check_conversational(source.path)
            check_weights(source.path)
        return source.path
    target, is_new = home.path / "model", not home.path.exists()
    if home.config_file.exists() and load_settings(home.config_file).model.path != str(target):
        raise UsageError(
            f"this home has a configuration already: set model.url and model.path in {home.config_file}"
        )
    try:
        _make(source, target, is_bound=home.config_file.exists(), on_part=on_part)
    except BaseException:
        if is_new:
            shutil.rmtree(home.path, ignore_errors=True)
        raise
    return target


def make_smollm2(directory: Path, on_part: OnPart) -> ModelMade:
    """Make a Hugging Face directory of SmolLM2-135M-Instruct from the installed package.

    Args:
        directory: The directory to make.
        on_part: Called with the progress.

    Returns:
        The directory, and the file from which it was made.
    """
    file = smollm2_file()
    _make(GgufSource(path=file), directory.expanduser().absolute(), is_bound=True, on_part=on_part)
    return ModelMade(model=str(directory), source=str(file))


def _make(source: GgufSource | HubSource, target: Path, *, is_bound: bool, on_part: OnPart) -> None:
    """Convert or download a model to a directory, unless it is there already.

    Args:
        source: The GGUF file, or the model on the hub.
        target: The directory.
        is_bound: Whether a directory made from another source must not be replaced, because it is in use.
        on_part: Called with the progress.
    """
    from agents.model.sources import from_gguf, hub

    record = read_record(target)
    wanted = from_gguf.record_of(source.path) if isinstance(source, GgufSource) else hub.record_of(source)
    if record and wanted.items() <= record.items():
        return
    if record and not is_bound:  # left by an `init` that was killed before it wrote a configuration
        shutil.rmtree(target)
    elif record:
        origin = record.get("file") or record.get("name") or "another source"
        raise UsageError(
            f"{target} holds a model that was made from {origin}: name another directory or home"
        )
    if isinstance(source, GgufSource):
        from_gguf.convert(source.path, target, on_part)
    else:
        hub.download(source, target, on_part)
