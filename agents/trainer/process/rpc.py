"""The trainer's socket, in a thread of its own, which answers `status` and orders at once.

Invariant: only this thread touches the ROUTER socket, and no message can end the thread. A request that
arrives again is not carried out again: its reply comes from memory or, if the request is still in progress,
goes to the latest client that sent it. The memory is bounded. Replies to a client that does not read are
dropped. This module reads only the header of the shared weights.
"""

import hashlib
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

import zmq

from agents.model import protocol
from agents.model.protocol import RpcReply, RpcRequest
from agents.model.weights.shared import SharedWeights
from agents.trainer.messages import Status, StepReport
from agents.trainer.process.control import Control
from agents.trainer.wire import OrderResult, RequestStatus
from corpus.errors import NightschoolError, TrainerFault

_REPLIES = "inproc://replies"
_REPEATABLE = frozenset({"logprobs", "activations", "stop"})
"""Verbs that change nothing. They can be carried out again, so their large results are not remembered."""
_REWRITES = frozenset({"train", "merge", "rollback"})
"""Verbs that change the shared weights, so that earlier results no longer describe them."""
PENDING = 64
"""Most requests that wait for the main thread; a further request is refused."""
LINGER_MS = 1000
"""Milliseconds that a stopping trainer waits until its last reply is sent."""


@dataclass(kw_only=True)
class CurrentWork:
    """The request that the main thread works on.

    The main thread writes this record; the socket's thread reads it.
    """

    verb: str = "idle"
    step: int = 0
    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A request that the main thread works on or has still to answer."""

    client: bytes
    """Socket identity of the latest client that sent the request."""
    digest: bytes
    """Digest of the request's frames."""
    verb: str
    dry_run: bool


class RpcServer(threading.Thread):
    """The thread that owns the socket.

    `inbox` passes requests to the main thread; None tells the main thread to stop.
    """

    def __init__(self, run_directory: Path, shared: SharedWeights, work: CurrentWork) -> None:
        super().__init__(name="trainer-rpc", daemon=True)
        self.inbox: SimpleQueue[RpcRequest | None] = SimpleQueue()
        self.control = Control()
        self.broken = False
        self._shared = shared
        self._work = work
        self._memory = protocol.ReplyCache()
        self._pending: dict[str, _Pending] = {}
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.maxmsgsize = protocol.FRAME_BYTES
        self._router.bind(protocol.address(run_directory))
        self._replies = self._context.socket(zmq.PULL)
        self._replies.bind(_REPLIES)
        self._outbox = self._context.socket(zmq.PUSH)  # the main thread's end
        self._outbox.connect(_REPLIES)

    def send(self, reply: RpcReply) -> None:
        """Send a reply; called in the main thread."""
        last = b"" if reply.kind == "progress" else b"last"
        remember = b"keep" if reply.kind == "result" else b""
        self._outbox.send_multipart([reply.id.encode(), last, remember, *protocol.pack_reply(reply)])

    def report(self, request: RpcRequest, step: StepReport) -> None:
        """Send the report on a completed step to the client; called in the main thread."""
        self._work.step, self._work.steps = step.step, step.steps
        self.send(RpcReply(id=request.id, kind="progress", body=asdict(step)))

    def close(self) -> None:
        """Send the remaining replies, then close; called in the main thread."""
        self._outbox.send_multipart([b""])
        self.join()
        self._outbox.close(linger=0)
        self._context.term()

    def run(self) -> None:
        """Serve until `close`."""
        try:
            poller = zmq.Poller()
            poller.register(self._router, zmq.POLLIN)
            poller.register(self._replies, zmq.POLLIN)
            while self._serve(dict(poller.poll())):
                pass
        except BaseException:
            sys.stderr.write(traceback.format_exc())
            self.broken = True
            self.stop()
        finally:
            self._router.close(linger=LINGER_MS)
            self._replies.close(linger=0)

    def stop(self) -> None:
        """Tell the main thread to stop between two steps; safe in a signal handler."""
        self.control.stop()
        self.inbox.put(None)

    def _serve(self, ready: dict[zmq.Socket[bytes], int]) -> bool:
        """Handle the messages that have arrived; return False once the socket must close, else True."""
        if self._replies in ready:
            identity, *rest = self._replies.recv_multipart()
            if not identity:
                return False
            self._reply(identity.decode(), rest)
        if self._router in ready:
            client, *frames = self._router.recv_multipart()
            try:
                self._receive(client, frames)
            except Exception as fault:  # the error boundary: no message may end the thread
                if not isinstance(fault, NightschoolError):
                    sys.stderr.write(traceback.format_exc())
                answer = protocol.error_reply(protocol.request_id(frames) or "unknown", fault)
                self._router.send_multipart([client, *protocol.pack_reply(answer)])
        return True

    def _reply(self, identity: str, rest: Sequence[bytes]) -> None:
        """Send the main thread's reply to the latest client that sent the request."""
        last, remember, *frames = rest
        pending = self._pending[identity]
        if last:
            del self._pending[identity]
            self.control.forget(identity)
            if pending.verb in _REWRITES and not pending.dry_run:
                self._memory.clear()
        if remember and pending.verb not in _REPEATABLE:
            self._memory.keep(identity, pending.digest, frames)
        self._router.send_multipart([pending.client, *frames])

    def _receive(self, client: bytes, frames: Sequence[bytes]) -> None:
        """Answer a request at once, or put it into the main thread's inbox."""
        request = protocol.unpack_request(frames)
        if request.verb == "status" or request.verb in protocol.CONTROL_VERBS:
            record = self._status(request) if request.verb == "status" else self._order(request)
            answer = RpcReply(id=request.id, kind="result", body=asdict(record))
            self._router.send_multipart([client, *protocol.pack_reply(answer)])
            return
        digest = hashlib.sha256(b"".join(hashlib.sha256(frame).digest() for frame in frames)).digest()
        if remembered := self._memory.recall(request.id, digest):
            self._router.send_multipart([client, *remembered])
            return
        before = self._pending.get(request.id)
        if before is not None and before.digest != digest:
            raise TrainerFault(f"request id {request.id!r} is in use for another request; give each its own")
        if before is None:
            self._admit(request)
        dry_run = request.body.get("dry_run") is True
        self._pending[request.id] = _Pending(client=client, digest=digest, verb=request.verb, dry_run=dry_run)
        if before is None:
            self.inbox.put(request)

    def _admit(self, request: RpcRequest) -> None:
        """Raise TrainerFault if the trainer is stopping or too many requests wait."""
        if self.control.stopping:
            raise TrainerFault("the trainer is stopping; ask again after the restart")
        if len(self._pending) >= PENDING:
            raise TrainerFault(
                f"the trainer is busy: {PENDING} requests wait; ask again when some are answered"
            )
        if request.verb == "stop":
            self.control.stop()

    def _order(self, request: RpcRequest) -> OrderResult:
        """Pass an order on to the current update; the result tells whether there is one."""
        update = next((name for name, pending in self._pending.items() if pending.verb == "train"), "")
        if update and request.verb == "pause":
            self.control.pause(update)
        elif update and request.verb == "resume":
            self.control.resume()
        elif update:
            self.control.cancel(update, str(request.body.get("reason", "cancelled")))
        return OrderResult(training=bool(update))

    def _status(self, request: RpcRequest) -> Status | RequestStatus:
        """Return the trainer's current state or, if the body has `asking`, whether that request is known."""
        shared, work = self._shared, self._work
        if asking := request.body.get("asking"):
            done = isinstance(asking, str) and asking in self._memory
            return RequestStatus(
                known=done or (isinstance(asking, str) and asking in self._pending), done=done
            )
        return Status(
            pid=os.getpid(),
            doing=work.verb,
            paused=self.control.waiting,
            step=work.step,
            steps=work.steps,
            version=shared.version,
            dirty=shared.dirty,
            holds=shared.holds,
            replaced=shared.replaced,
        )
