"""The readings' way from the process that computes them to those that answer: a ZMQ PUB socket in the served directory.

Invariant: nothing here ever waits for a listener: what nobody takes is dropped; and no forward pass waits for its
scores to be copied off the device. Only JSON and raw numbers cross it. Knows no request.
"""

from collections.abc import Callable
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any

import torch
import zmq

from agents.model.vllm.readout.scores import Passed, pack

WAITING = 1000
"""Messages that may wait for a listener, at either end."""
COPIES = 64
"""Passes whose scores may be on their way off a device."""

Made = Callable[[Any], Passed]


def address(directory: Path, instance: str) -> Path:
    """The socket of this vLLM: named after the instance, so that no other's is mistaken for it."""
    return directory / f"readings-{instance}"


class Publisher:
    """Sends what forward passes have read."""

    def __init__(self, path: Path) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.set_hwm(WAITING)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"ipc://{path}")
        self._copies: Queue[tuple[torch.Tensor, Any, Made]] | None = None

    def publish(self, scores: torch.Tensor, made: Made) -> None:
        """Send these scores `(tokens, layers, concepts)` float32, as what `made` makes of their numbers."""
        if not scores.is_cuda:
            self._socket.send_multipart(pack(made(scores.numpy())))
            return
        if self._copies is None:
            self._copies = Queue(COPIES)
            Thread(target=self._send_copies, args=(self._copies,), name="readings", daemon=True).start()
        host = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
        host.copy_(scores, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        try:
            self._copies.put_nowait((host, copied, made))
        except Full:
            pass  # as for a listener that is too slow

    def close(self) -> None:
        """Send no more."""
        self._socket.close()

    def _send_copies(self, copies: "Queue[tuple[torch.Tensor, Any, Made]]") -> None:
        """The thread that waits for the copies; from its start on, the socket is its own."""
        while True:
            host, copied, made = copies.get()
            copied.synchronize()
            self._socket.send_multipart(pack(made(host.numpy())))
