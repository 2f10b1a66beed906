"""The trainer's socket, in a thread of its own: requests in, replies out, `status` at once.

Invariant: this thread alone touches the ROUTER socket. A request id that is known is answered from memory,
one that is being worked on has its reply sent to whoever asked last, and neither is done twice. Knows no
model: the mapping's header is all that it reads.
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

from agents.model.mapping import SharedWeights
from agents.trainer import protocol
from agents.trainer.messages import Status, StepReport
from agents.trainer.protocol import Reply, Request
from corpus.errors import NightschoolError, TrainerFault

_REPLIES = "inproc://replies"
_REPEATABLE = frozenset({"logprobs", "activations", "stop"})
"""Verbs that change nothing: their large answers are not remembered."""
_REWRITES = frozenset({"train", "rollback"})
"""Verbs after which results from before no longer say what the mapping holds."""
LINGER_MS = 1000
"""How long the last reply may take to leave when the trainer stops."""


@dataclass(kw_only=True)
class Doing:
    """What the main thread is doing; it writes, the socket's thread reads."""

    verb: str = "idle"
    step: int = 0
    steps: int = 0


class Door(threading.Thread):
    """The thread that owns the socket. `inbox` gives requests to the main thread; None means stop."""

    def __init__(self, run_directory: Path, shared: SharedWeights, doing: Doing) -> None:
        super().__init__(name="trainer-door", daemon=True)
        self.inbox: SimpleQueue[Request | None] = SimpleQueue()
        self.stopping = threading.Event()
        self.broken = False
        self._shared = shared
        self._doing = doing
        self._memory = protocol.Memory()
        self._askers: dict[str, tuple[bytes, bytes, str]] = {}
        """For each request being worked on: who asked last, the digest of what was asked, the verb."""
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(protocol.address(run_directory))
        self._replies = self._context.socket(zmq.PULL)
        self._replies.bind(_REPLIES)
        self._outbox = self._context.socket(zmq.PUSH)  # the main thread's end
        self._outbox.connect(_REPLIES)

    def send(self, reply: Reply) -> None:
        """Send a reply; from the main thread."""
        last = b"" if reply.kind == "progress" else b"last"
        remember = b"keep" if reply.kind == "result" else b""
        self._outbox.send_multipart([reply.id.encode(), last, remember, *protocol.pack_reply(reply)])

    def report(self, request: Request, made: StepReport) -> None:
        """Send the progress of a step; from the main thread."""
        self._doing.step, self._doing.steps = made.step, made.steps
        self.send(Reply(id=request.id, kind="progress", body=asdict(made)))

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
        self.stopping.set()
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
            except NightschoolError as fault:
                answer = protocol.error_reply(protocol.request_id(frames) or "unknown", fault)
                self._router.send_multipart([asker, *protocol.pack_reply(answer)])
        return True

    def _reply(self, identity: str, rest: Sequence[bytes]) -> None:
        """Pass the main thread's reply on to whoever asked last."""
        last, remember, *frames = rest
        asker, digest, verb = self._askers[identity]
        if last:
            del self._askers[identity]
            if verb in _REWRITES:
                self._memory.clear()
        if remember and verb not in _REPEATABLE:
            self._memory.keep(identity, digest, frames)
        self._router.send_multipart([asker, *frames])

    def _receive(self, asker: bytes, frames: Sequence[bytes]) -> None:
        """Answer a request at once, or put it in the inbox."""
        request = protocol.unpack_request(frames)
        if request.verb == "status":
            asking = request.body.get("asking")
            known = asking in self._askers or asking in self._memory
            body = {"known": known} if asking else asdict(self._status())
            answer = Reply(id=request.id, kind="result", body=body)
            self._router.send_multipart([asker, *protocol.pack_reply(answer)])
            return
        digest = hashlib.sha256(b"".join(hashlib.sha256(frame).digest() for frame in frames)).digest()
        if remembered := self._memory.recall(request.id, digest):
            self._router.send_multipart([asker, *remembered])
            return
        if request.id in self._askers and self._askers[request.id][1] != digest:
            raise TrainerFault(f"request id {request.id!r} is in use for another request; give each its own")
        known = request.id in self._askers
        self._askers[request.id] = (asker, digest, request.verb)
        if known:
            return
        if self.stopping.is_set():
            del self._askers[request.id]
            raise TrainerFault("the trainer is stopping; ask again after the restart")
        if request.verb == "stop":
            self.stopping.set()
        self.inbox.put(request)

    def _status(self) -> Status:
        shared, doing = self._shared, self._doing
        return Status(
            pid=os.getpid(),
            doing=doing.verb,
            step=doing.step,
            steps=doing.steps,
            version=shared.version,
            dirty=shared.dirty,
            holds=shared.holds,
            replaced=shared.replaced,
        )
