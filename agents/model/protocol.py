"""The frames of a request and a reply on a ZMQ socket: a JSON header, then raw frames. Never pickle.

    request  {"v": 1, "id": ..., "verb": ..., "body": {...}}  + raw frames
    reply    {"v": 1, "id": ..., "kind": "result" | "progress" | "error", "body": {...}}  + raw frames

Three sockets use these frames: the trainer's; the service's, which the routes on a user's own vLLM call; and
the socket that exports CUDA handles (`weights.cuda_ipc`).

Invariant: a header of any other form raises `TrainerFault`, and every request gets exactly one result or
error. This module knows nothing about sockets or the bodies of verbs.
"""

import json
import reprlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from corpus import errors
from corpus.errors import NightschoolError, TrainerFault

VERSION = 1
"""Incremented with every change that an older peer would misread."""
CONTROL_VERBS = frozenset({"pause", "resume", "cancel"})
"""Verbs that control the running update. The answer comes at once: `{"training": true}` if there is one."""
VERBS: Set[str] = CONTROL_VERBS | frozenset(
    ("train", "merge", "checkpoint", "rollback", "settle", "logprobs", "activations", "status", "stop")
)
SOCKET_NAME = "trainer.sock"
"""The file of the trainer's socket in the run directory."""
SERVICE_SOCKET_NAME = "service.zmq"
"""The file of the service's socket in the run directory."""
LONGEST_PATH = 103
"""Longest path of a unix socket in bytes: the limit of macOS, which is the lowest of any system."""
MAX_REPLIES = 64
"""Most replies that a `ReplyCache` holds."""
FRAME_BYTES = 16 * 2**20
"""Largest frame: enough for a text of 4 million tokens, or a header for some 200,000 pairs. When a peer sends
a larger frame, ZMQ closes the connection before the frame is in memory."""
MAX_ID_CHARACTERS = 200
"""Longest request id."""
MAX_MESSAGE_CHARACTERS = 2000
"""Longest error message; longer ones are cut, because a message may quote text of any length."""

ReplyKind = Literal["result", "progress", "error"]


@dataclass(frozen=True, kw_only=True)
class RpcRequest:
    """One checked request."""

    id: str
    verb: str
    body: Mapping[str, Any]
    frames: Sequence[bytes] = ()


@dataclass(frozen=True, kw_only=True)
class RpcReply:
    """One checked reply."""

    id: str
    kind: ReplyKind
    body: Mapping[str, Any]
    frames: Sequence[bytes] = ()


def address(run_directory: Path, name: str = SOCKET_NAME) -> str:
    """Return the ZMQ address of a socket in this run directory, by default the trainer's."""
    path = str(run_directory / name)
    if len(path.encode()) > LONGEST_PATH:
        raise TrainerFault(f"{path} is too long for a unix socket; use a shorter run directory")
    return f"ipc://{path}"


def pack_request(request: RpcRequest) -> list[bytes]:
    """Return the frames of a request."""
    frames = [_pack({"id": request.id, "verb": request.verb, "body": request.body}), *request.frames]
    if (largest := max(map(len, frames))) > FRAME_BYTES:
        raise TrainerFault(
            f"a frame of {largest} bytes is over the {FRAME_BYTES} that are taken; send less at once"
        )
    return frames


def unpack_request(frames: Sequence[bytes], verbs: Set[str] = VERBS) -> RpcRequest:
    """Return the request in these frames, whose verb must be one of `verbs`."""
    header = _unpack(frames, {"v", "id", "verb", "body"})
    if not isinstance(header["verb"], str) or header["verb"] not in verbs:
        raise TrainerFault(f"there is no verb {reprlib.repr(header['verb'])} here")
    return RpcRequest(id=header["id"], verb=header["verb"], body=header["body"], frames=tuple(frames[1:]))


def pack_reply(reply: RpcReply) -> list[bytes]:
    """Return the frames of a reply."""
    return [_pack({"id": reply.id, "kind": reply.kind, "body": reply.body}), *reply.frames]


def unpack_reply(frames: Sequence[bytes]) -> RpcReply:
    """Return the reply in these frames."""
    header = _unpack(frames, {"v", "id", "kind", "body"})
    if header["kind"] not in ("result", "progress", "error"):
        raise TrainerFault(f"the other side sent a reply of an unknown kind {reprlib.repr(header['kind'])}")
    return RpcReply(id=header["id"], kind=header["kind"], body=header["body"], frames=tuple(frames[1:]))


def request_id(frames: Sequence[bytes]) -> str:
    """Return the id in a request's frames, which may be malformed; "" if they have no valid id.

    The reply that reports the malformed request needs this id to reach the sender.
    """
    try:
        identity = _json(frames)["id"]
    except (TrainerFault, KeyError, TypeError):
        return ""
    return identity if _is_id(identity) else ""


def error_reply(identity: str, fault: Exception) -> RpcReply:
    """Return the reply that reports `fault` to the request's sender, by the fault's class and message."""
    name = type(fault).__name__ if isinstance(fault, NightschoolError) else "TrainerFault"
    message = str(fault) if isinstance(fault, NightschoolError) else f"{type(fault).__name__}: {fault}"
    return RpcReply(
        id=identity, kind="error", body={"error": name, "message": message[:MAX_MESSAGE_CHARACTERS]}
    )


def error_of(reply: RpcReply) -> NightschoolError:
    """Return the exception that a reply of kind "error" reports."""
    kind = getattr(errors, str(reply.body.get("error")), TrainerFault)
    if not (isinstance(kind, type) and issubclass(kind, NightschoolError)):
        kind = TrainerFault
    return kind(str(reply.body.get("message", "the trainer failed without a reason")))


class ReplyCache:
    """The last replies by request id, so that a repeated request is answered without doing its work again."""

    def __init__(self, size: int = MAX_REPLIES) -> None:
        self._size = size
        self._replies: OrderedDict[str, tuple[bytes, Sequence[bytes]]] = OrderedDict()

    def keep(self, identity: str, digest: bytes, frames: Sequence[bytes]) -> None:
        """Store the reply to a request, and drop the oldest reply if there are too many.

        Args:
            identity: The request's id.
            digest: A digest of the request's content.
            frames: The frames of the reply.
        """
        self._replies[identity] = (digest, frames)
        while len(self._replies) > self._size:
            self._replies.popitem(last=False)

    def clear(self) -> None:
        """Drop all replies: the shared weights have changed, so the replies no longer hold."""
        self._replies.clear()

    def __contains__(self, identity: object) -> bool:
        return identity in self._replies

    def recall(self, identity: str, digest: bytes) -> Sequence[bytes] | None:
        """Return the frames of the stored reply to a request; None if no reply is stored.

        Args:
            identity: The request's id.
            digest: A digest of the request's content.

        Raises:
            TrainerFault: A request with other content has used this id.
        """
        if identity not in self._replies:
            return None
        before, frames = self._replies[identity]
        if before != digest:
            raise TrainerFault(f"request id {identity!r} was used for another request; give each its own id")
        return frames


def _pack(header: dict[str, Any]) -> bytes:
    return json.dumps({"v": VERSION, **header}, separators=(",", ":"), allow_nan=False).encode()


def _unpack(frames: Sequence[bytes], keys: set[str]) -> dict[str, Any]:
    """Return the header of these frames; it must have exactly the fields `keys`."""
    header = _json(frames)
    if not isinstance(header, dict) or header.keys() != keys:
        raise TrainerFault(f"the header must have exactly the fields {', '.join(sorted(keys))}")
    if type(header["v"]) is not int or header["v"] != VERSION:
        raise TrainerFault(
            f"the header has version {reprlib.repr(header['v'])}, not {VERSION}; restart the service"
        )
    if not _is_id(header["id"]) or not isinstance(header["body"], dict):
        raise TrainerFault(f"the id must be 1 to {MAX_ID_CHARACTERS} plain characters, the body an object")
    return header


def _json(frames: Sequence[bytes]) -> Any:
    """Return the JSON value of the first frame."""
    try:
        return json.loads(frames[0], parse_constant=_refuse_constant)
    except (
        ValueError,
        IndexError,
        RecursionError,
    ):  # not JSON, or too long a number; no frame; too deep nesting
        raise TrainerFault("the header is not JSON; this side speaks another protocol") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_id(value: Any) -> bool:
    """Return whether this value can be a request's id: short plain text, as it appears in frames and logs."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_ID_CHARACTERS
        and value.isascii()
        and value.isprintable()
    )
