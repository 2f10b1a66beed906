"""The socket between the process that computes readings and those that answer: a ZMQ publisher.

Invariant: nothing here waits for a subscriber, and messages that nobody takes are dropped. No forward pass
waits until its scores are copied off the device. Only JSON and raw numbers cross the socket. This module
knows nothing about requests.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from threading import Thread

import torch
import zmq

from agents.model.vllm.readout.scores import PassScores, Scores, pack

WAITING = 1000
"""Messages that may wait for a subscriber, at either end."""
COPIES = 64
"""Passes whose scores may be on their way off a device."""

ToPass = Callable[[Scores], PassScores]
"""(scores on the CPU) -> the pass that they belong to."""


def address(directory: Path, instance: str) -> Path:
    """Return the path of this vLLM's socket; the name holds the instance, so that no two are confused."""
    return directory / f"readings-{instance}"


class Publisher:
    """Publishes the scores of forward passes."""

    def __init__(self, path: Path) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.set_hwm(WAITING)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"ipc://{path}")
        self._copies: Queue[tuple[torch.Tensor, torch.cuda.Event, ToPass]] | None = None

    def publish(self, scores: torch.Tensor, to_pass: ToPass) -> None:
        """Publish scores `(tokens, layers, concepts)` float32, as the pass that `to_pass` makes of them."""
        if not scores.is_cuda:
            self._socket.send_multipart(pack(to_pass(scores.numpy())))
            return
        if self._copies is None:
            self._copies = Queue(COPIES)
            Thread(target=self._send_copies, args=(self._copies,), name="readings", daemon=True).start()
        host = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
        host.copy_(scores, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        with suppress(Full):  # dropped, as for a subscriber that is too slow
            self._copies.put_nowait((host, copied, to_pass))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send_copies(self, copies: "Queue[tuple[torch.Tensor, torch.cuda.Event, ToPass]]") -> None:
        """Wait for copies and send them, in a thread that owns the socket from its start on."""
        while True:
            host, copied, to_pass = copies.get()
            copied.synchronize()
            self._socket.send_multipart(pack(to_pass(host.numpy())))
