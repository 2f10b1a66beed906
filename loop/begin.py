"""`init`: a home with checkpoint 0, and with the bundled conversations when asked for.

Invariant: done twice it changes nothing; the base weights are durable before the ledger names them.
"""

from pathlib import Path
from typing import Any

from agents.ingest.read import ingest_paths
from agents.model.describe import digest, language_model
from agents.model.safety import check_model_dir
from corpus.errors import ConfigError
from corpus.recipe import MODEL_DIR
from loop.config import load_settings
from store import history, queries
from store.checkpoints import CheckpointStore
from store.home import create, locked
from store.ledger import Ledger, database_url
from store.tensors import RawTensor, parse

CONVERSATIONS = Path(__file__).parent.parent / "corpus" / "conversations"
"""The bundled conversations."""


async def init(option: Path | None, *, demo: bool) -> dict[str, Any]:
    """Make a home; returns what it holds."""
    home = create(option)
    settings = load_settings(home.config_file)
    with locked(home):
        ledger = Ledger(database_url(home.path, settings.database))
        try:
            await _base(ledger, CheckpointStore(home.checkpoints), Path(settings.model.path or MODEL_DIR))
            if demo:
                await ingest_paths(ledger, [CONVERSATIONS], None)
            active = await ledger.read(queries.active)
            heard = await ledger.read(queries.cursor)
        finally:
            ledger.close()
    return {"home": str(home.path), "checkpoint": active["id"], "turns": heard}


async def _base(ledger: Ledger, store: CheckpointStore, model_dir: Path) -> None:
    """Checkpoint 0: the model as it comes."""
    if await ledger.read(queries.checkpoints):
        return
    check_model_dir(model_dir)
    written = store.write(_weights(model_dir), None, {"cursor": 0, "seed": None, "settings": None})
    await ledger.write(history.add_base, written.id, written.weights_sha256, digest(model_dir))


def _weights(model_dir: Path) -> dict[str, RawTensor]:
    """The tensors of a Hugging Face directory, by name."""
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{model_dir} has no safetensors: model.path must be a Hugging Face directory")
    return language_model({name: tensor for file in files for name, tensor in parse(file)[1].items()})
