"""The embedded model server: a process that serves a small model from shared weights on a unix socket.

    python -m agents.model.embedded.server --run-dir DIR --model DIR --token-file FILE [--threads N]
        [--dtype TYPE] [--checkpoints DIR --holds ID] [--readout DIR] [--parent-pid PID] [--ready-fd FD]

It creates RUN_DIR/weights.bin and weights.json (the shared weights) before it listens on RUN_DIR/model.sock,
so the weights exist as soon as /health answers. It prints nothing to stdout; errors go to stderr.

Invariant: the process ends with its parent, and removes its socket and its shared weights on SIGTERM. Every
served parameter lies in the shared weights. This module does not know who writes to them, or why.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from agents.model.http_auth import AuthMiddleware, server_config
from agents.model.process import die_with_parent, keep_freed_memory
from agents.model.requests import MAX_TEMPERATURE
from agents.model.safety import check_model_dir
from agents.model.threads import threads_for, wait_briefly
from corpus.errors import ConfigError, NightschoolError

if TYPE_CHECKING:
    from agents.model.embedded.engine import Engine
    from agents.model.weights.shared import SharedWeights

SOCKET_NAME = "model.sock"
"""The file of the server's socket in the run directory."""
WEIGHTS_NAME = "weights.bin"
"""The file of the shared weights in the run directory."""
MAX_SOCKET_PATH = 107
"""Longest path of a unix socket on Linux, in bytes."""
BACKLOG = 128
"""Connections that may wait to be accepted."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes; return the exit code."""
    options = _parser().parse_args(arguments)
    # The manifest names the model, and its readers may run in another working directory.
    options.run_dir, options.model = options.run_dir.resolve(), options.model.resolve()
    die_with_parent(options.parent_pid)
    # Until the server listens, a signal must unwind the stack, so that the shared weights are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    options.threads = threads_for(options.threads, options.model)
    # Set before torch is loaded, because torch reads them once; each thread takes its default from them.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
    wait_briefly()
    os.environ["HF_HUB_OFFLINE"] = "1"
    keep_freed_memory()
    try:
        _serve(options)
    except NightschoolError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agents.model.embedded.server", description="Serve a small model.")
    parser.add_argument(
        "--run-dir", type=Path, required=True, help="directory of the socket and the shared weights"
    )
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model directory")
    parser.add_argument("--checkpoints", type=Path, help="directory of the checkpoint files")
    parser.add_argument("--holds", default="", help="checkpoint to serve instead of the directory's weights")
    parser.add_argument(
        "--readout", type=Path, help="the home's concept vectors, which requests may be steered by"
    )
    parser.add_argument("--token-file", type=Path, required=True, help="file with the bearer token")
    parser.add_argument(
        "--threads", type=int, default=0, help="threads inside one operation; 0 leaves it to the machine"
    )
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="type of the products"
    )
    parser.add_argument(
        "--ready-fd", type=int, help="file descriptor that gets the line `ready` once the socket listens"
    )
    parser.add_argument("--parent-pid", type=int, help="stop at once unless this is the parent")
    return parser


def _serve(options: argparse.Namespace) -> None:
    """Load the model, then answer requests until SIGTERM or SIGINT."""
    socket_path, weights_path = options.run_dir / SOCKET_NAME, options.run_dir / WEIGHTS_NAME
    token = _read_token(options.token_file)
    try:
        engine = load(
            options.model,
            options.run_dir,
            options.checkpoints,
            options.holds,
            options.threads,
            options.readout,
            options.dtype,
        )
        _listen(engine, socket_path, token, options.ready_fd)
    finally:
        for path in (socket_path, weights_path, weights_path.with_suffix(".json")):
            path.unlink(missing_ok=True)


def _read_token(path: Path) -> str:
    """Return the bearer token in this file."""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read ({error.strerror}); name another") from error


def _listen(engine: "Engine", socket_path: Path, token: str, ready_fd: int | None) -> None:
    """Serve on the socket until a signal comes; write to `ready_fd` once clients can connect."""
    from agents.model.embedded.routes import build_app

    # asyncio warns of every write to a client that has gone, and a client may go at any time.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    config = server_config(AuthMiddleware(build_app(engine), token=token))
    for number in (signal.SIGTERM, signal.SIGINT):
        # Uvicorn raises the signal again when it has stopped. The process ends then anyway.
        signal.signal(number, lambda number, frame: None)
    with _bound_socket(socket_path) as listening:
        if ready_fd is not None:
            # The service waits for this line; if the server fails earlier, it sees the end of the file.
            os.write(ready_fd, b"ready\n")
            os.close(ready_fd)
        asyncio.run(_Server(config, engine).serve([listening]))


class _Server(uvicorn.Server):
    """Uvicorn's server, which at its end also tells the engine's threads to stop."""

    def __init__(self, config: uvicorn.Config, engine: "Engine") -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop the engine's running answers, then do as uvicorn does."""
        self._engine.stopping.set()
        super().handle_exit(sig, frame)


def _bound_socket(path: Path) -> socket.socket:
    """Return a listening unix socket that only this user can open."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"{path} is too long for a unix socket ({MAX_SOCKET_PATH} bytes); use a shorter home"
        )
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    previous = os.umask(0o177)
    try:
        listening.bind(str(path))
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
    dtype: str = "auto",
) -> "Engine":
    """Load a model into new shared weights in `run_dir`, and return the engine that serves it.

    `holds` is the id of a checkpoint in `checkpoints`, whose weights are served in place of those of
    `model_dir`; "" for none. `readout` is the home's folder of concept vectors; None refuses all steering.
    `dtype` is `model.dtype`.
    """
    check_model_dir(model_dir)
    import torch
    import transformers

    from agents.model.describe import digest_of
    from agents.model.embedded.activation_steering import Steering
    from agents.model.embedded.chat import ChatTokenizer
    from agents.model.embedded.decoder import DecoderForward
    from agents.model.embedded.engine import Engine
    from agents.model.embedded.forward import forward_for
    from agents.model.embedded.precision import dtype_for
    from agents.model.embedded.sampling import Sampler
    from agents.model.embedded.working_weights import WorkingWeights
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
    shared = share(model, run_dir / WEIGHTS_NAME, str(model_dir))
    if checkpoints is not None and holds:
        restore(shared, CheckpointStore(checkpoints), holds, clean=True)
    chat, config = ChatTokenizer(tokenizer), model.config.get_text_config()
    width, layers = config.hidden_size, config.num_hidden_layers
    ends = end_ids(model, tokenizer, chat.turn_end)
    kind = dtype_for(dtype, model) if DecoderForward.fits(model) else model.dtype
    working = WorkingWeights(kind, version=lambda: shared.version, lock=shared.lock.read_lock)
    return Engine(
        name=model_dir.resolve().name,
        tokenizer=chat,
        sampler=Sampler(forward_for(model, working), chat.decode, ends, working.reading),
        weights=shared,
        context=config.max_position_embeddings,
        vocab_size=config.vocab_size,
        end_ids=ends,
        threads=threads,
        dtype=str(kind).removeprefix("torch."),
        defaults=sampling_defaults(model),
        steering=Steering(readout, hidden_size=width, layers=layers, model=digest_of(str(model_dir))),
    )


def share(model: Any, path: Path, name: str) -> "SharedWeights":
    """Move the model's parameters into new shared weights at `path`, and return these.

    `name` is the model's name in the manifest. Tied parameters stay tied.
    """
    from agents.model.weights.shared import SharedWeights

    # A trainer of an earlier server may still map the old file; truncating it would kill that trainer.
    path.unlink(missing_ok=True)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shared = SharedWeights.create(path, parameters, model=name, adopt=True)
    model.requires_grad_(False)
    return shared


def end_ids(model: Any, tokenizer: Any, turn_end: int | None) -> tuple[int, ...]:
    """Return the tokens that end an answer: the tokenizer's, the generation settings' and `turn_end`.

    `turn_end` is the token with which the chat template ends an answer; None if there is no such token.
    """
    settings = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None), turn_end]
    ids = [each for setting in settings for each in (setting if isinstance(setting, list) else [setting])]
    return tuple(sorted({each for each in ids if each is not None}))


def sampling_defaults(model: Any) -> dict[str, float]:
    """Return `temperature` and `top_p` from the model's generation settings, without invalid values."""
    bounds = {"temperature": MAX_TEMPERATURE, "top_p": 1.0}
    values = {name: getattr(model.generation_config, name, None) for name in bounds}
    return {name: float(value) for name, value in values.items() if value and 0 < value <= bounds[name]}


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Everything is cleaned up, and an orderly teardown of torch would take most of a second more.
    os._exit(status)
