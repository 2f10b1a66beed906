"""How requests and replies are framed on the socket: a JSON header, then raw frames. Never pickle.

    request  {"v": 1, "id": ..., "verb": ..., "body": {...}}  + raw frames
    reply    {"v": 1, "id": ..., "kind": "result" | "progress" | "error", "body": {...}}  + raw frames

Invariant: a header that is not exactly this is refused with a `TrainerFault` and never half understood, whatever
its bytes are; every request gets exactly one result or error. Knows no socket and no verb's body.

Spoken at two sockets: the trainer's, and the service's, which the model server's routes ask.
"""

import json
import reprlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from corpus import errors
from corpus.errors import NightschoolError, TrainerFault

VERSION = 1
"""Grows with every change that an older side would misread."""
CONTROL_VERBS = frozenset({"pause", "resume", "cancel"})
"""Verbs about the update in hand, answered at once: `{"training": whether there was one}`."""
VERBS: Set[str] = CONTROL_VERBS | frozenset(
    ("train", "merge", "checkpoint", "rollback", "settle", "logprobs", "activations", "status", "stop")
)
SOCKET_NAME = "trainer.sock"
"""The file of the trainer's socket in the run directory."""
SERVICE_SOCKET_NAME = "service.zmq"
"""The file of the service's."""
LONGEST_PATH = 103
"""Bytes that a unix socket's path may take on every system that we know (macOS has the least)."""
REMEMBERED = 64
"""Results kept to answer repeated requests."""
FRAME_BYTES = 16 * 2**20
"""Largest frame that the trainer takes: a text of 4 million tokens, or a header for some 200,000 pairs. ZMQ
closes the connection of whoever sends a larger one before it is in memory."""
ID_CHARACTERS = 200
"""Longest request id."""
MESSAGE_CHARACTERS = 2000
"""Longest error message: what it quotes was written by somebody else."""

ReplyKind = Literal["result", "progress", "error"]


@dataclass(frozen=True, kw_only=True)
class RpcRequest:
    """One request, checked."""

    id: str
    verb: str
    body: Mapping[str, Any]
    frames: Sequence[bytes] = ()


@dataclass(frozen=True, kw_only=True)
class RpcReply:
    """One reply, checked."""

    id: str
    kind: ReplyKind
    body: Mapping[str, Any]
    frames: Sequence[bytes] = ()


def address(run_directory: Any, name: str = SOCKET_NAME) -> str:
    """Where the trainer of this run directory listens, or with another socket's name whoever has that."""
    path = str(run_directory / name)
    if len(path.encode()) > LONGEST_PATH:
        raise TrainerFault(f"{path} is too long for a unix socket; use a shorter run directory")
    return f"ipc://{path}"


def pack_request(request: RpcRequest) -> list[bytes]:
    """The frames of a request."""
    frames = [_pack({"id": request.id, "verb": request.verb, "body": request.body}), *request.frames]
    if (largest := max(map(len, frames))) > FRAME_BYTES:
        raise TrainerFault(
            f"a frame of {largest} bytes is over the {FRAME_BYTES} that are taken; send less at once"
        )
    return frames


def unpack_request(frames: Sequence[bytes], verbs: Set[str] = VERBS) -> RpcRequest:
    """The request in these frames; `verbs` are those that this side knows, the trainer's unless given."""
    header = _unpack(frames, {"v", "id", "verb", "body"})
    if not isinstance(header["verb"], str) or header["verb"] not in verbs:
        raise TrainerFault(f"there is no verb {reprlib.repr(header['verb'])} here")
    return RpcRequest(id=header["id"], verb=header["verb"], body=header["body"], frames=tuple(frames[1:]))


def pack_reply(reply: RpcReply) -> list[bytes]:
    """The frames of a reply."""
    return [_pack({"id": reply.id, "kind": reply.kind, "body": reply.body}), *reply.frames]


def unpack_reply(frames: Sequence[bytes]) -> RpcReply:
    """The reply in these frames."""
    header = _unpack(frames, {"v", "id", "kind", "body"})
    if header["kind"] not in ("result", "progress", "error"):
        raise TrainerFault(f"the other side sent a reply of an unknown kind {reprlib.repr(header['kind'])}")
    return RpcReply(id=header["id"], kind=header["kind"], body=header["body"], frames=tuple(frames[1:]))


def request_id(frames: Sequence[bytes]) -> str:
    """The id of a request that may otherwise be malformed, so that the fault finds its asker; "" if none."""
    try:
        identity = _json(frames)["id"]
    except (TrainerFault, KeyError, TypeError):
        return ""
    return identity if _is_id(identity) else ""


def error_reply(identity: str, fault: Exception) -> RpcReply:
    """The reply that says what went wrong; the class travels by name."""
    name = type(fault).__name__ if isinstance(fault, NightschoolError) else "TrainerFault"
    message = str(fault) if isinstance(fault, NightschoolError) else f"{type(fault).__name__}: {fault}"
    return RpcReply(id=identity, kind="error", body={"error": name, "message": message[:MESSAGE_CHARACTERS]})


def error_of(reply: RpcReply) -> NightschoolError:
    """The error that a reply of kind "error" stands for."""
    kind = getattr(errors, str(reply.body.get("error")), TrainerFault)
    if not (isinstance(kind, type) and issubclass(kind, NightschoolError)):
        kind = TrainerFault
    return kind(str(reply.body.get("message", "the trainer failed without a reason")))


class ReplyCache:
    """The last results by request id, so that a repeated request is answered and not repeated."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._replies: OrderedDict[str, tuple[bytes, Sequence[bytes]]] = OrderedDict()

    def keep(self, identity: str, digest: bytes, frames: Sequence[bytes]) -> None:
        """Remember the reply to the request with this id and content digest."""
        self._replies[identity] = (digest, frames)
        while len(self._replies) > self._size:
            self._replies.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: the mapping holds something else now, and old results would mislead."""
        self._replies.clear()

    def __contains__(self, identity: object) -> bool:
        return identity in self._replies

    def recall(self, identity: str, digest: bytes) -> Sequence[bytes] | None:
        """The reply given before, or None; another request under the same id is a fault."""
        if identity not in self._replies:
            return None
        before, frames = self._replies[identity]
        if before != digest:
            raise TrainerFault(f"request id {identity!r} was used for another request; give each its own id")
        return frames


def _pack(header: dict[str, Any]) -> bytes:
    return json.dumps({"v": VERSION, **header}, separators=(",", ":"), allow_nan=False).encode()


def _unpack(frames: Sequence[bytes], keys: set[str]) -> dict[str, Any]:
    """The header of these frames, its fields checked."""
    header = _json(frames)
    if not isinstance(header, dict) or header.keys() != keys:
        raise TrainerFault(f"the header must have exactly the fields {', '.join(sorted(keys))}")
    if type(header["v"]) is not int or header["v"] != VERSION:
        raise TrainerFault(
            f"the header has version {reprlib.repr(header['v'])}, not {VERSION}; restart the service"
        )
    if not _is_id(header["id"]) or not isinstance(header["body"], dict):
        raise TrainerFault(f"the id must be 1 to {ID_CHARACTERS} plain characters, the body an object")
    return header


def _json(frames: Sequence[bytes]) -> Any:
    """The first frame, decoded."""
    try:
        return json.loads(frames[0], parse_constant=_refuse_constant)
    except (
        ValueError,
        IndexError,
        RecursionError,
    ):  # not JSON, a number without end, no frame, nested without end
        raise TrainerFault("the header is no JSON; this side speaks another protocol") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_id(value: Any) -> bool:
    """Whether this may name a request: it goes into frames and logs as it is."""
    return (
        isinstance(value, str) and 0 < len(value) <= ID_CHARACTERS and value.isascii() and value.isprintable()
    )
