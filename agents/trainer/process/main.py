"""The trainer process: `python -m agents.trainer.process.main --run-dir DIR --checkpoints DIR --model DIR`.

Attaches to the shared weights of the model server as their only writer and restores the active checkpoint if
needed. Then the process answers requests on the run directory's socket until it is stopped.

Invariant: the process dies with its parent. A clean end undoes an update in progress. Nothing goes to
standard output. This module knows nothing about the ledger or the schedule.
"""

import argparse
import os
import signal
import stat
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agents.model.process import die_with_parent
from agents.model.threads import wait_briefly
from agents.model.weights.header import writer_lock
from corpus.errors import ConfigError, IntegrityFault, NightschoolError, TrainerFault

if TYPE_CHECKING:
    from agents.trainer.process.rpc import CurrentWork, RpcServer
    from agents.trainer.process.worker import Worker

NICE = 5
"""Niceness of the trainer: it gets a quarter of a processor's time beside a busy server, and all of it beside
an idle server."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trainer until it is stopped; return the exit code."""
    options = _parser().parse_args(arguments)
    die_with_parent(options.parent)
    _yield_to_server(external=options.mapping not in (None, options.run_dir))
    wait_briefly()
    # Fix the code paths of the numeric libraries: an update must give the same bits in every process.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        _serve(options)
    except NightschoolError as fault:
        sys.stderr.write(f"trainer: {fault}\n")
        return fault.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agents.trainer.process.main", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="where the socket goes; mode 0700")
    parser.add_argument(
        "--mapping", type=Path, help="directory of weights.bin, if it is not the run directory"
    )
    parser.add_argument("--checkpoints", type=Path, required=True, help="directory of checkpoint files")
    parser.add_argument(
        "--model", type=Path, required=True, help="Hugging Face directory of the served model"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of a computation")
    parser.add_argument("--active", help="checkpoint to restore first if the shared weights are dirty")
    parser.add_argument("--start-fd", type=int, help="load everything, then wait until this pipe is closed")
    parser.add_argument("--parent", type=int, help="process id that must still be the parent")
    return parser


def _yield_to_server(*, external: bool) -> None:
    """Lower this process's priority below the model server's.

    `external`: whether the model server runs in another session.
    """
    os.nice(NICE)
    autogroup = Path("/proc/self/autogroup")
    if external and autogroup.exists() and os.getpid() != os.getpgrp():
        # With autogroups, a kernel divides time among sessions first, and by niceness only within a session.
        os.setsid()
        autogroup.write_text(str(NICE))


def _serve(options: argparse.Namespace) -> None:
    """Attach to the shared weights, then answer requests until the trainer is stopped."""
    if stat.S_IMODE(os.stat(options.run_dir).st_mode) & 0o077:
        raise ConfigError(f"{options.run_dir} is open to other users; `chmod 700` it")
    mapping = options.mapping or options.run_dir
    if options.start_fd is None:
        _need_mapping(mapping)  # checked before torch is loaded, which takes seconds
    # Deferred: --help and a wrong option should not wait for torch.
    import torch

    from agents.model.weights import views
    from agents.model.weights.shared import SharedWeights
    from agents.model.weights.snapshot import restore
    from agents.trainer.process.rpc import CurrentWork, RpcServer
    from agents.trainer.process.worker import Worker
    from agents.trainer.update.training import TrainerContext
    from store.checkpoints.store import CheckpointStore

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    # A pass over every new tensor, which only makes reads of unset memory visible.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if options.start_fd is not None:
        os.read(options.start_fd, 1)
        _need_mapping(mapping)
    shared = SharedWeights.attach(mapping / "weights.bin")
    store = CheckpointStore(options.checkpoints)
    with _only_writer(shared.path):
        if options.active:  # even clean weights: a rollback may have written its rows, not its weights
            restore(shared, store, options.active, clean=True, force=shared.dirty)
        context = TrainerContext(shared=shared, model=views.build(shared, options.model), store=store)
        work = CurrentWork()
        server = RpcServer(options.run_dir, shared, work)
        signal.signal(signal.SIGTERM, lambda number, frame: server.stop())
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C is for the service, which then stops the trainer
        server.start()
        try:
            _work(server, work, Worker(context, server.control.check))
        finally:
            server.close()
    if server.broken:
        raise TrainerFault("the socket's thread failed, see above; restart the trainer")


@contextmanager
def _only_writer(mapping: Path) -> Iterator[None]:
    """Hold the writer's lock of the shared weights within the block; wait first for another writer to end."""
    with writer_lock(mapping, wait=False) as mine:
        if mine:
            yield
            return
    sys.stderr.write(f"trainer: another process writes {mapping}; waiting until it has ended\n")
    with writer_lock(mapping, wait=True):
        yield


def _need_mapping(directory: Path) -> None:
    """Raise IntegrityFault if the model server has not made the shared weights."""
    if not (directory / "weights.json").exists():
        raise IntegrityFault(f"there are no shared weights in {directory}; start the model server first")


def _work(server: "RpcServer", work: "CurrentWork", worker: "Worker") -> None:
    """Answer one request after the other until the trainer is stopped."""
    from agents.model.protocol import RpcReply, error_reply

    while (request := server.inbox.get()) is not None:
        work.verb, work.step, work.steps = request.verb, 0, 0
        try:
            try:
                body, frames = worker.answer(request, partial(server.report, request))
            finally:
                work.verb = "idle"
            server.send(RpcReply(id=request.id, kind="result", body=body, frames=frames))
        except NightschoolError as fault:
            server.send(error_reply(request.id, fault))
        except Exception as fault:  # the error boundary: a failed request must not end the process
            sys.stderr.write(traceback.format_exc())
            server.send(error_reply(request.id, fault))
        if request.verb == "stop":
            break
    late = TrainerFault("the trainer is stopping; ask again after the restart")
    while not server.inbox.empty():
        if (request := server.inbox.get()) is not None:
            server.send(error_reply(request.id, late))


if __name__ == "__main__":
    sys.exit(main())
