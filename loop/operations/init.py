"""`init`: make a home with checkpoint 0 and, if the user asks for it, the bundled conversations.

Invariant: a second `init` changes nothing. The weights of checkpoint 0 are on disk before the ledger has its
row.
"""

import json
from pathlib import Path

from agents.ingest.read import ingest_paths
from agents.model.client import open_client
from agents.model.describe import digest, is_shipped, language_model_tensors
from agents.model.safety import check_model_dir
from agents.model.threads import cores
from corpus.errors import ConfigError, ModelUnavailable, UsageError
from loop.config import Settings, load_settings
from loop.engine import model_identity
from loop.night import gc
from loop.operations.own_model import OnPart, ready_model
from loop.operations.results.home import HomeMade
from store import belonging, queries
from store.checkpoints.store import CheckpointStore
from store.home import Home, create, locate, locked
from store.ledger.db import Ledger, database_url
from store.nights import history
from store.tensors.raw import RawTensor, parse, size, specs_of

CONVERSATIONS = Path(__file__).parents[2] / "corpus" / "conversations"
"""Folder of the bundled conversations."""

VLLM = """
[model]
# Your own vLLM, with this package installed beside it and this home as its NIGHTSCHOOL_HOME.
url = {url}
{path}
[training]
# Your weights stay as they are until you set this to true; everything else is done.
enabled = false
"""
"""The sections that `init --url` adds to the configuration file."""


THREADS = """\
# One for each core: the server and the trainer take turns in a night.
threads = {threads}
"""
"""The setting that `init --model` adds to the table `[model]` for another model on the embedded server."""
OWN = """
[dreams]
# Some forty a side teach a rule, because every dream of a counter-behaviour makes a pair too.
per_behaviour = 40
counter_share = 1.0

[pairs]
# Answers are sampled as people have them: at 1.0 a small model loses itself in every sixth.
temperature = 0.7

[verdict]
scenarios = 104
"""
"""The sections that `init --model` adds for another model than the shipped one."""
MOST_THREADS = 8
"""Most threads that `init` asks for by itself."""


async def init(
    option: Path | None,
    *,
    demo: bool,
    url: str = "",
    model: str | Path = "",
    on_part: OnPart = lambda done, total: None,
) -> HomeMade:
    """Make a home and return its state.

    The home's model is `model` if it is given, else the model that is served at `url`, else the shipped one.

    Args:
        option: The home's folder; None for the default one.
        demo: Whether to read the bundled conversations into the ledger.
        url: Address of the user's own vLLM; "" for the embedded server.
        model: A Hugging Face directory, a GGUF file, or a name on the hub; "" for none.
        on_part: Called with the progress while a model is downloaded or converted.
    """
    path = None
    if model:
        path = ready_model(locate(option), str(model), is_served=bool(url), on_part=on_part)
    home, settings = _home(option, url, path)
    with locked(home):
        ledger = Ledger(database_url(home.path, settings.database))
        try:
            store = CheckpointStore(home.checkpoints)
            found = await gc.problem(store, ledger)
            belonging.require_own(found)
            if not await ledger.read(queries.checkpoints):
                await _base(ledger, store, await model_of(settings, home))
            if found is None:
                await gc.agree(store, ledger)
            if demo:
                await ingest_paths(ledger, [CONVERSATIONS], None)
            active = await ledger.read(queries.active)
            turns = await ledger.read(queries.cursor)
        finally:
            ledger.close()
    return HomeMade(home=str(home.path), checkpoint=active.id, turns=turns)


def _home(option: Path | None, url: str, model: Path | None) -> tuple[Home, Settings]:
    """Return the home and its configuration; create both if the home is new."""
    path = "" if model is None else str(model)
    setting = f"path = {json.dumps(path)}\n" if path else ""
    is_own = model is not None and not is_shipped(digest(model))
    if url:
        sections = VLLM.format(url=json.dumps(url), path=setting)
    elif is_own:
        sections = f"\n[model]\n{setting}{THREADS.format(threads=min(cores(), MOST_THREADS))}"
    else:
        sections = f"\n[model]\n{setting}" if setting else ""
    sections += OWN if is_own else ""
    home = create(option, sections)
    settings = load_settings(home.config_file)
    if (url and settings.model.url != url) or (path and settings.model.path != path):
        raise UsageError(
            f"this home has a configuration already: set model.url and model.path in {home.config_file}"
        )
    return home, settings


async def model_of(settings: Settings, home: Home) -> Path:
    """Return the Hugging Face directory of the home's model."""
    directory = model_identity.model_directory(settings, home)
    if directory is not None:
        return directory
    url = settings.model.url
    async with open_client(token=settings.model.api_key, base_url=url) as client:
        try:
            return model_identity.named_directory(await client.served_model())
        except ModelUnavailable as error:
            raise ModelUnavailable(
                f"the model of this home is not known: {error}. Start vLLM at {url} and run "
                "`nightschool init` again, or name the model with `init --model DIR` (model.path)"
            ) from error


async def _base(ledger: Ledger, store: CheckpointStore, model_dir: Path) -> None:
    """Write checkpoint 0, which holds the model's own weights, and add it to the ledger."""
    check_model_dir(model_dir)
    weights = _weights(model_dir)
    store.require_space(size(specs_of(weights)))
    written = store.write(weights, None, {"cursor": 0, "seed": None, "settings": None})
    await ledger.write(history.add_base, written.id, written.weights_sha256, digest(model_dir))


def _weights(model_dir: Path) -> dict[str, RawTensor]:
    """Return the tensors of a Hugging Face directory, by name."""
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{model_dir} has no safetensors: model.path must be a Hugging Face directory")
    return language_model_tensors({name: tensor for file in files for name, tensor in parse(file)[1].items()})
