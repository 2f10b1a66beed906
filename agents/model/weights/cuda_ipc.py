"""Weights on a CUDA device that other processes open: they request IPC handles over a local socket.

The parameters stay where the server allocated them. A process that attaches requests handles, opens them, and
then uses the same memory as the server. Each process gets handles of its own, because torch counts the
readers of each handle (`torch.multiprocessing.reductions`).

Invariant: a handle crosses the socket as JSON and is checked field by field, never pickled. The exporter
keeps its tensors for as long as its process lives. This module knows nothing about the names of tensors: a
reply has them in the exporter's order.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import torch
import zmq
from pydantic import Base64Bytes, TypeAdapter, ValidationError
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from agents.model import protocol
from agents.model.protocol import RpcReply, RpcRequest
from corpus.errors import IntegrityFault

SOCKET_NAME = "handles.sock"
"""File name of the exporter's socket, in the folder of the shared weights."""
PATIENCE_MS = 30_000
"""Longest wait for the handles of a whole model, in milliseconds."""
ADVICE = "start vLLM without --enable-sleep-mode, the cumem allocator and expandable_segments"


@dataclass(frozen=True, kw_only=True)
class Handle:
    """One exported tensor: all that a process needs to open it, except its own number of the device."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""
    offset: int
    """Elements from the start of the storage to the tensor."""
    dtype: str
    """Name of the type in torch, such as `float32`."""
    memory: Base64Bytes
    """CUDA's handle of the allocation that contains the storage."""
    nbytes: int
    """Bytes of the storage."""
    start: int
    """Bytes from the start of the allocation to the storage."""
    counter: Base64Bytes
    """The file in which torch counts the readers of this export."""
    counter_at: int
    """The position of this export in that file."""
    event: Base64Bytes
    """CUDA's handle of the event that the reader waits for before its first read."""
    wait: bool
    """Whether the reader must wait for the event."""

    @classmethod
    def of_arguments(cls, arguments: Sequence[Any]) -> "Handle":
        """Return the handle that contains the arguments that `reduce_tensor` returns for a CUDA tensor."""
        (
            _,
            shape,
            strides,
            offset,
            _,
            dtype,
            _,
            memory,
            nbytes,
            start,
            _,
            counter,
            counter_at,
            event,
            wait,
        ) = arguments
        return cls(
            shape=tuple(shape),
            strides=tuple(strides),
            offset=offset,
            dtype=str(dtype)[6:],
            memory=memory,
            nbytes=nbytes,
            start=start,
            counter=counter,
            counter_at=counter_at,
            event=event,
            wait=wait,
        )

    def arguments(self, device: int) -> tuple[Any, ...]:
        """Return the arguments for `rebuild_cuda_tensor`; `device` is the GPU's number in this process."""
        storage = (
            torch.storage.TypedStorage,
            getattr(torch, self.dtype),
            device,
            self.memory,
            self.nbytes,
            self.start,
        )
        counted = (self.counter, self.counter_at, self.event, self.wait)
        return (torch.Tensor, self.shape, self.strides, self.offset, *storage, False, *counted)


_HANDLES = TypeAdapter(list[Handle])


def require_exportable(tensors: Sequence[torch.Tensor]) -> None:
    """Raise `IntegrityFault` if these tensors cannot be exported."""
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) != 1:
        raise IntegrityFault(
            f"the weights lie on {', '.join(devices)}: only those on one device can be trained"
        )
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise IntegrityFault("some weights are not contiguous: this layout cannot be trained")
    configured = ",".join(
        os.environ.get(name, "") for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    )
    if "expandable_segments:true" in configured.lower():
        raise IntegrityFault(f"memory of expandable_segments cannot be shared with the trainer: {ADVICE}")
    export(tensors[:1])


def export(tensors: Sequence[torch.Tensor]) -> list[Handle]:
    """Return a handle of each tensor for one reader; each reader needs handles of its own."""
    handles = []
    for tensor in tensors:
        if not tensor.is_cuda:
            raise IntegrityFault(f"weights on {tensor.device} have no CUDA handles")
        try:
            _, arguments = reduce_tensor(tensor.detach())  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # from CUDA: memory that cudaMalloc did not allocate has no handle
            raise IntegrityFault(f"CUDA does not export these weights ({error}): {ADVICE}") from error
        handles.append(Handle.of_arguments(arguments))
    return handles


class IpcExporter:
    """A thread that answers each reader's request with new handles, for as long as the process lives."""

    def __init__(self, path: Path, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = [tensor.detach() for tensor in tensors]
        path.unlink(missing_ok=True)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = self._context.socket(zmq.REP)
        socket.linger = 0
        socket.bind(f"ipc://{path}")
        os.chmod(path, 0o600)
        self._thread = Thread(target=self._serve, args=(socket,), name="nightschool-ipc", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._context.term()  # raises an error in the waiting thread, which then closes its socket
        self._thread.join()

    def _serve(self, socket: "zmq.Socket[bytes]") -> None:
        with socket:
            while True:
                try:
                    frames = socket.recv_multipart()
                    socket.send_multipart(protocol.pack_reply(self._reply(frames)))
                except zmq.ContextTerminated:
                    return

    def _reply(self, frames: Sequence[bytes]) -> RpcReply:
        try:
            request = protocol.unpack_request(frames, {"export"})
            handles = _HANDLES.dump_python(export(self._tensors), mode="json")
            card = _card(self._tensors[0].device.index)
            return RpcReply(id=request.id, kind="result", body={"card": card, "handles": handles})
        except Exception as fault:  # the boundary: a failed request must not end the thread
            return protocol.error_reply(protocol.request_id(frames) or "unknown", fault)


def open_tensors(path: Path) -> list[torch.Tensor]:
    """Return the tensors of the exporter at this socket, in the exporter's order.

    They are the server's own memory: a write to them changes the served weights.
    """
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(f"ipc://{path}")
        socket.send_multipart(protocol.pack_request(RpcRequest(id=uuid4().hex, verb="export", body={})))
        if not socket.poll(PATIENCE_MS):
            raise IntegrityFault(f"no server exports weights at {path}; restart vLLM")
        reply = protocol.unpack_reply(socket.recv_multipart())
    if reply.kind == "error":
        raise protocol.error_of(reply)
    try:
        handles = _HANDLES.validate_python(reply.body["handles"])
    except (KeyError, ValidationError) as error:
        raise IntegrityFault(f"the handles from {path} are malformed ({error}); restart vLLM") from error
    device = _number(str(reply.body.get("card")))
    return [rebuild_cuda_tensor(*handle.arguments(device)) for handle in handles]  # type: ignore[no-untyped-call]


def _card(device: int) -> str:
    """Return the GPU's id, which is the same in every process; its number may differ."""
    return str(torch.cuda.get_device_properties(device).uuid)


def _number(card: str) -> int:
    """Return the number in this process of the GPU with the id `card`."""
    for device in range(torch.cuda.device_count()):
        if _card(device) == card:
            return device
    raise IntegrityFault(
        f"this process does not see the GPU {card} that vLLM serves from; "
        "start it with the same CUDA_VISIBLE_DEVICES"
    )
