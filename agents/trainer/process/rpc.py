"""The trainer's socket, in a thread of its own: requests in, replies out, `status` and orders at once.

Invariant: this thread alone touches the ROUTER socket, and nothing that arrives ends it. A request id that is
known is answered from memory, one that is being worked on has its reply sent to whoever asked last, and
neither is done twice. What is remembered is bounded, and a client that reads nothing has its replies dropped.
Knows no model: the mapping's header is all that it reads.
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
from typing import Any

import zmq

from agents.model import protocol
from agents.model.protocol import RpcReply, RpcRequest
from agents.model.weights.shared import SharedWeights
from agents.trainer.messages import Status, StepReport
from agents.trainer.process.control import Control
from corpus.errors import NightschoolError, TrainerFault

_REPLIES = "inproc://replies"
_REPEATABLE = frozenset({"logprobs", "activations", "stop"})
"""Verbs that change nothing: their large answers are not remembered."""
_REWRITES = frozenset({"train", "merge", "rollback"})
"""Verbs after which results from before no longer say what the mapping holds."""
PENDING = 64
"""Requests that may wait for the main thread; one more is told that the trainer is busy."""
LINGER_MS = 1000
"""How long the last reply may take to leave when the trainer stops."""


@dataclass(kw_only=True)
class Doing:
    """What the main thread is doing; it writes, the socket's thread reads."""

    verb: str = "idle"
    step: int = 0
    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A request that the main thread has, or will have."""

    asker: bytes
    """Whoever asked last."""
    digest: bytes
    """Of what was asked."""
    verb: str
    dry_run: bool


class RpcServer(threading.Thread):
    """The thread that owns the socket. `inbox` gives requests to the main thread; None means stop."""

    def __init__(self, run_directory: Path, shared: SharedWeights, doing: Doing) -> None:
        super().__init__(name="trainer-door", daemon=True)
        self.inbox: SimpleQueue[RpcRequest | None] = SimpleQueue()
        self.control = Control()
        self.broken = False
        self._shared = shared
        self._doing = doing
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
        """Send a reply; from the main thread."""
        last = b"" if reply.kind == "progress" else b"last"
        remember = b"keep" if reply.kind == "result" else b""
        self._outbox.send_multipart([reply.id.encode(), last, remember, *protocol.pack_reply(reply)])

    def report(self, request: RpcRequest, made: StepReport) -> None:
        """Send the progress of a step; from the main thread."""
        self._doing.step, self._doing.steps = made.step, made.steps
        self.send(RpcReply(id=request.id, kind="progress", body=asdict(made)))

    def close(self) -> None:
        """Send what is left, then close; from the main thread."""
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
        """Have the main thread stop between two steps; safe in a signal handler."""
        self.control.stop()
        self.inbox.put(None)

    def _serve(self, ready: dict[zmq.Socket[bytes], int]) -> bool:
        """Handle what has arrived; returns whether to go on."""
        if self._replies in ready:
            identity, *rest = self._replies.recv_multipart()
            if not identity:
                return False
            self._reply(identity.decode(), rest)
        if self._router in ready:
            asker, *frames = self._router.recv_multipart()
            try:
                self._receive(asker, frames)
            except Exception as fault:  # the boundary: no message may end the thread
                if not isinstance(fault, NightschoolError):
                    sys.stderr.write(traceback.format_exc())
                answer = protocol.error_reply(protocol.request_id(frames) or "unknown", fault)
                self._router.send_multipart([asker, *protocol.pack_reply(answer)])
        return True

    def _reply(self, identity: str, rest: Sequence[bytes]) -> None:
        """Pass the main thread's reply on to whoever asked last."""
        last, remember, *frames = rest
        asked = self._pending[identity]
        if last:
            del self._pending[identity]
            self.control.forget(identity)
            if asked.verb in _REWRITES and not asked.dry_run:
                self._memory.clear()
        if remember and asked.verb not in _REPEATABLE:
            self._memory.keep(identity, asked.digest, frames)
        self._router.send_multipart([asked.asker, *frames])

    def _receive(self, asker: bytes, frames: Sequence[bytes]) -> None:
        """Answer a request at once, or put it in the inbox."""
        request = protocol.unpack_request(frames)
        if request.verb == "status" or request.verb in protocol.CONTROL_VERBS:
            body = self._status(request) if request.verb == "status" else self._order(request)
            answer = RpcReply(id=request.id, kind="result", body=body)
            self._router.send_multipart([asker, *protocol.pack_reply(answer)])
            return
        digest = hashlib.sha256(b"".join(hashlib.sha256(frame).digest() for frame in frames)).digest()
        if remembered := self._memory.recall(request.id, digest):
            self._router.send_multipart([asker, *remembered])
            return
        before = self._pending.get(request.id)
        if before is not None and before.digest != digest:
            raise TrainerFault(f"request id {request.id!r} is in use for another request; give each its own")
        if before is None:
            self._admit(request)
        dry_run = request.body.get("dry_run") is True
        self._pending[request.id] = _Pending(asker=asker, digest=digest, verb=request.verb, dry_run=dry_run)
        if before is None:
            self.inbox.put(request)

    def _admit(self, request: RpcRequest) -> None:
        """Refuse a new request that there is no room or no time for."""
        if self.control.stopping:
            raise TrainerFault("the trainer is stopping; ask again after the restart")
        if len(self._pending) >= PENDING:
            raise TrainerFault(
                f"the trainer is busy: {PENDING} requests wait; ask again when some are answered"
            )
        if request.verb == "stop":
            self.control.stop()

    def _order(self, request: RpcRequest) -> dict[str, Any]:
        """Pass an order on to the update in hand, if there is one."""
        update = next((name for name, asked in self._pending.items() if asked.verb == "train"), "")
        if update and request.verb == "pause":
            self.control.pause(update)
        elif update and request.verb == "resume":
            self.control.resume()
        elif update:
            self.control.cancel(update, str(request.body.get("reason", "cancelled")))
        return {"training": bool(update)}

    def _status(self, request: RpcRequest) -> dict[str, Any]:
        """What the trainer is doing; or, asked for a request, whether it is known and was answered."""
        shared, doing = self._shared, self._doing
        if asking := request.body.get("asking"):
            done = isinstance(asking, str) and asking in self._memory
            return {"known": done or (isinstance(asking, str) and asking in self._pending), "done": done}
        told = Status(
            pid=os.getpid(),
            doing=doing.verb,
            paused=self.control.waiting,
            step=doing.step,
            steps=doing.steps,
            version=shared.version,
            dirty=shared.dirty,
            holds=shared.holds,
            replaced=shared.replaced,
        )
        return asdict(told)
