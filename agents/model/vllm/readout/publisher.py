"""The ZMQ publisher that sends scores from the process of the forward pass to the processes that answer.

Invariant: nothing here waits for a subscriber, and messages that no subscriber takes are dropped. No forward
pass waits until its scores are copied off the device. Only JSON and raw numbers cross the socket. This module
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
"""Most messages that may wait for a subscriber, at each end of the socket."""
COPIES = 64
"""Most passes whose scores may be in the course of a copy off the device; those of further passes are
dropped."""

ToPass = Callable[[Scores], PassScores]
"""A function that takes the scores of a pass, on the CPU, and returns the message to publish."""


def address(directory: Path, instance: str) -> Path:
    """Return the path of the socket of one vLLM in the served directory.

    `instance` is the id of that vLLM; it is part of the name, so two vLLMs never share a socket.
    """
    return directory / f"readings-{instance}"


class Publisher:
    """The publisher of the scores of forward passes."""

    def __init__(self, path: Path) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.set_hwm(WAITING)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"ipc://{path}")
        self._copies: Queue[tuple[torch.Tensor, torch.cuda.Event, ToPass]] | None = None

    def publish(self, scores: torch.Tensor, to_pass: ToPass) -> None:
        """Publish the scores of one pass; those on a GPU are copied and sent in a thread.

        Args:
            scores: `(tokens, layers, concepts)` float32.
            to_pass: Makes the message from the scores.
        """
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
        with suppress(Full):  # the scores are dropped, as for a subscriber that is too slow
            self._copies.put_nowait((host, copied, to_pass))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send_copies(self, copies: "Queue[tuple[torch.Tensor, torch.cuda.Event, ToPass]]") -> None:
        """Send the scores of each pass once their copy is complete; only this thread uses the socket."""
        while True:
            host, copied, to_pass = copies.get()
            copied.synchronize()
            self._socket.send_multipart(pack(to_pass(host.numpy())))
