"""The embedded model server: a process that serves a small model from a shared mapping on a unix socket.

    python -m agents.model.embedded.server --run-dir DIR --model DIR --token-file FILE [--threads 1]
                                  [--checkpoints DIR --holds ID] [--readout DIR] [--parent-pid PID] [--ready-fd FD]

It writes RUN_DIR/weights.bin and weights.json (the mapping) before it listens on RUN_DIR/model.sock, so a
server that answers /health has weights to attach to. It prints nothing; what it has to say goes to stderr.

Invariant: it dies with its parent, and takes its socket and mapping files with it on SIGTERM. Every parameter
that is served lies in the mapping. Does not know who writes there, nor what an update is.
"""

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from agents.model.http_auth import AuthMiddleware
from agents.model.parent import die_with_parent
from agents.model.safety import check_model_dir
from corpus.errors import ConfigError, NightschoolError

if TYPE_CHECKING:
    from agents.model.embedded.engine import Engine
    from agents.model.weights.shared import SharedWeights

SOCKET = "model.sock"
MAPPING = "weights.bin"
MAX_SOCKET_PATH = 107
"""Bytes of path that Linux allows a unix socket."""
BACKLOG = 128
"""Connections that may wait to be accepted."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    options = _parser().parse_args(arguments)
    # The manifest names both, and its readers may run elsewhere.
    options.run_dir, options.model = options.run_dir.resolve(), options.model.resolve()
    die_with_parent(options.parent_pid)
    # Until the server listens, a signal must still unwind, so that the mapping is put away.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    # Before torch is loaded: it reads these once, and each thread of ours takes its default from them.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    keep_memory()
    try:
        _serve(options)
    except NightschoolError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agents.model.embedded.server", description="Serve a small model.")
    parser.add_argument("--run-dir", type=Path, required=True, help="where the socket and the mapping go")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--checkpoints", type=Path, help="directory of the checkpoint files")
    parser.add_argument("--holds", default="", help="checkpoint to serve instead of the directory's weights")
    parser.add_argument(
        "--readout", type=Path, help="the home's concept vectors, which requests may be steered by"
    )
    parser.add_argument("--token-file", type=Path, required=True, help="file with the bearer token")
    parser.add_argument("--threads", type=int, default=1, help="threads inside one operation")
    parser.add_argument("--ready-fd", type=int, help="file descriptor told `ready` once the socket listens")
    parser.add_argument("--parent-pid", type=int, help="stop at once unless this is the parent")
    return parser


def keep_memory() -> None:
    """Have malloc keep what torch frees: fresh pages from the kernel cost a batch a sixth of its time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 1024 * 1024 * 1024)
        mallopt(_M_TOP_PAD, 64 * 1024 * 1024)


def _serve(options: argparse.Namespace) -> None:
    """Load the model, then answer until SIGTERM or SIGINT."""
    place = options.run_dir / SOCKET
    token = _token(options.token_file)
    try:
        served = load(
            options.model,
            options.run_dir,
            options.checkpoints,
            options.holds,
            options.threads,
            options.readout,
        )
        _listen(served, place, token, options.ready_fd)
    finally:
        for name in (place, options.run_dir / MAPPING, (options.run_dir / MAPPING).with_suffix(".json")):
            name.unlink(missing_ok=True)


def _token(path: Path) -> str:
    """The bearer token in this file."""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read ({error.strerror}); name another") from error


def _listen(served: "Engine", place: Path, token: str, ready: int | None) -> None:
    """Serve the socket at `place` until a signal comes; `ready` is told when it can be connected to."""
    from agents.model.embedded.routes import build_app

    # asyncio warns of every piece sent to an asker that has gone; that somebody left is no fault of ours.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    config = uvicorn.Config(
        AuthMiddleware(build_app(served), token=token),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # Uvicorn raises the signal once more when it has stopped: by then we are leaving anyway.
        signal.signal(number, lambda number, frame: None)
    with _bound_socket(place) as listening:
        if ready is not None:
            # Whoever holds the other end waits for this line, or for the end of file when we fail before.
            os.write(ready, b"ready\n")
            os.close(ready)
        asyncio.run(_Server(config, served).serve([listening]))


class _Server(uvicorn.Server):
    """Uvicorn, which also stops the answers in progress: a thread cannot be interrupted."""

    def __init__(self, config: uvicorn.Config, served: "Engine") -> None:
        super().__init__(config)
        self._served = served

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        self._served.stopping.set()
        super().handle_exit(sig, frame)


def _bound_socket(place: Path) -> socket.socket:
    """A unix socket at `place` that this user alone can open."""
    if len(os.fsencode(place)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"{place} is too long for a unix socket ({MAX_SOCKET_PATH} bytes); use a shorter home"
        )
    place.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    previous = os.umask(0o177)
    try:
        listening.bind(str(place))
    finally:
        os.umask(previous)
    listening.listen(BACKLOG)
    return listening


def load(
    model_dir: Path,
    run_dir: Path,
    checkpoints: Path | None,
    holds: str,
    threads: int,
    readout: Path | None = None,
) -> "Engine":
    """Check and load the model, and lay its parameters out in the mapping."""
    check_model_dir(model_dir)
    import torch
    import transformers

    from agents.model.describe import digest_of
    from agents.model.embedded.activation_steering import Steering
    from agents.model.embedded.chat import ChatTokenizer
    from agents.model.embedded.engine import Engine
    from agents.model.embedded.forward import forward_for
    from agents.model.embedded.sampling import Sampler
    from agents.model.weights.snapshot import restore
    from store.checkpoints.store import CheckpointStore

    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        model_dir, trust_remote_code=False, local_files_only=True
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_dir, trust_remote_code=False, local_files_only=True, use_safetensors=True
    ).eval()
    shared = share(model, run_dir / MAPPING, str(model_dir))
    if checkpoints is not None and holds:
        restore(shared, CheckpointStore(checkpoints), holds, clean=True)
    text, ends = ChatTokenizer(tokenizer), end_ids(model, tokenizer)
    return Engine(
        name=model_dir.resolve().name,
        text=text,
        sampler=Sampler(forward_for(model), text.decode, ends, shared.lock.read_lock),
        weights=shared,
        context=model.config.max_position_embeddings,
        vocab_size=model.config.vocab_size,
        end_ids=ends,
        threads=threads,
        steering=Steering(
            readout,
            hidden_size=model.config.hidden_size,
            layers=model.config.num_hidden_layers,
            model=digest_of(str(model_dir)),
        ),
    )


def share(model: Any, place: Path, name: str) -> "SharedWeights":
    """Move the module's parameters into a new mapping; tied ones stay tied, as they are one parameter."""
    from agents.model.weights.shared import SharedWeights

    # A trainer of an earlier server may still map the old file: cutting it short would kill that trainer.
    place.unlink(missing_ok=True)
    named = dict(model.named_parameters(remove_duplicate=False))
    shared = SharedWeights.create(place, named, model=name, adopt=True)
    model.requires_grad_(False)
    return shared


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer, by the tokenizer and by the model's generation settings."""
    found = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)]
    flat = [one for part in found for one in (part if isinstance(part, list) else [part])]
    return tuple(sorted({one for one in flat if one is not None}))


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Everything is put away; tearing torch down in an orderly way would take most of a second more.
    os._exit(status)
