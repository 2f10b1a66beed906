"""Malformed messages drawn from a seed, which the trainer has to survive.

Invariant: the same seed gives the same messages. None is a valid `stop`, and none names a checkpoint that
there is, so whatever of them is understood all the same changes nothing. Knows no socket.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agents.model.protocol import CONTROL_VERBS, VERBS, RpcRequest, pack_request
from agents.trainer.messages import Example, Settings, TrainRequest
from agents.trainer.wire import pack_tokens, pack_train

NOWHERE = "ab" * 32
"""No checkpoint's id."""
BASES = sorted(VERBS - {"stop"} - CONTROL_VERBS)
DEEP = b"[" * 100_000
ODD: Sequence[Any] = (
    *(
        None,
        True,
        -1,
        0.5,
        "",
        [],
        {},
        [[]],
        "\ud800",
        "\0",
        "../x",
        10**400,
        -(10**400),
        2**63,
        "x" * 100_000,
    ),
    *({"a": {"b": []}}, ["\udfff"], [1e308], "stop it", 1e-320),
)
"""Values that a field does not expect."""
RAW = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e999",
    b"9" * 5000,
    DEEP,
    b'"\xff\xfe"',
    b'"\\ud800"',
    b"1 1",
)
"""JSON that Python's own writer does not write."""


def messages(count: int, seed: int) -> Iterator[list[bytes]]:
    """Return this many messages, each a list of frames."""
    draw = random.Random(seed)
    for number in range(count):
        kind = draw.choice(_KINDS)
        yield kind(draw, f"m{number}")


def _valid(draw: random.Random, name: str) -> RpcRequest:
    """Return a well-formed request for something that does not exist."""
    verb, frames = draw.choice(BASES), [pack_tokens([1, 2, 3])]
    body: dict[str, Any] = {}
    if verb == "train":
        example = Example(context=(1, 2), chosen=(3,), rejected=(4, 5))
        plain = TrainRequest(
            objective="orpo", settings=Settings(lr=1e-3), seed=1, parent=NOWHERE, examples=(example, example)
        )
        body, frames = pack_train(plain)
    elif verb == "checkpoint":
        body = {"parent": NOWHERE, "fields": {}}
    elif verb in ("rollback", "settle"):
        body = {"checkpoint": NOWHERE, **({"settled": True} if verb == "rollback" else {})}
    elif verb == "activations":
        body = {"layers": [999]}
    return RpcRequest(id=name, verb=verb, body=body, frames=frames)


def _header(request: RpcRequest, **changes: Any) -> bytes:
    """Return its header with other fields, as Python writes it (with NaN, with lone surrogates)."""
    return json.dumps(
        {"v": 1, "id": request.id, "verb": request.verb, "body": request.body, **changes}
    ).encode()


def _noise(draw: random.Random, name: str) -> list[bytes]:
    return [draw.randbytes(draw.randrange(200)) for _ in range(draw.randint(1, 4))]


def _cut(draw: random.Random, name: str) -> list[bytes]:
    header, *frames = pack_request(_valid(draw, name))
    return [header[: draw.randrange(len(header))], *frames]


def _flipped(draw: random.Random, name: str) -> list[bytes]:
    header, *frames = pack_request(_valid(draw, name))
    changed = bytearray(header)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return [bytes(changed), *frames]


def _another_version(draw: random.Random, name: str) -> list[bytes]:
    return [_header(_valid(draw, name), v=draw.choice((0, 2, 1.0, "1", True, None, 10**50, [1], -1)))]


def _odd_field(draw: random.Random, name: str) -> list[bytes]:
    asked, field = _valid(draw, name), draw.choice(("v", "id", "verb", "body", "surplus"))
    return [_header(asked, **{field: draw.choice(ODD)}), *asked.frames]


def _odd_body(draw: random.Random, name: str) -> list[bytes]:
    asked = _valid(draw, name)
    field, value = draw.choice([*asked.body, "asking", "surplus", "reason"]), draw.choice(ODD)
    if (field, value) == ("parent", None):  # a first checkpoint, which is in order
        value = ""
    return [_header(asked, body={**asked.body, field: value}), *asked.frames]


def _odd_setting(draw: random.Random, name: str) -> list[bytes]:
    asked = _valid(draw, name)
    while asked.verb != "train":
        asked = _valid(draw, name)
    settings = dict(asked.body["settings"])
    settings[draw.choice(list(settings))] = draw.choice(ODD)
    return [_header(asked, body={**asked.body, "settings": settings}), *asked.frames]


def _raw_value(draw: random.Random, name: str) -> list[bytes]:
    asked = _valid(draw, name)
    place = draw.choice(("v", "id", "verb", "body", "surplus"))
    return [_header(asked, **{place: "HERE"}).replace(b'"HERE"', draw.choice(RAW)), *asked.frames]


def _raw_in_body(draw: random.Random, name: str) -> list[bytes]:
    asked = _valid(draw, name)
    body = {**asked.body, draw.choice([*asked.body, "surplus"]): "HERE"}
    return [_header(asked, body=body).replace(b'"HERE"', draw.choice(RAW)), *asked.frames]


def _deep(draw: random.Random, name: str) -> list[bytes]:
    return [draw.choice((DEEP, b'{"a":' * 50_000, DEEP + b"]" * len(DEEP)))]


def _long_id(draw: random.Random, name: str) -> list[bytes]:
    return [
        _header(_valid(draw, name), id=draw.choice(("x" * 1_000_000, "ä" * 10, "a\nb", " " * 300, "x" * 201)))
    ]


def _unknown_verb(draw: random.Random, name: str) -> list[bytes]:
    return [
        _header(
            _valid(draw, name), verb=draw.choice(("explode", "TRAIN", "train ", "__init__", "", "x" * 50_000))
        )
    ]


def _wrong_frames(draw: random.Random, name: str) -> list[bytes]:
    header, *frames = pack_request(_valid(draw, name))
    return [header, *draw.choices([*frames, b"", b"abc", b"\xff" * 8], k=draw.choice((0, 1, 3, 5, 200)))]


def _empty(draw: random.Random, name: str) -> list[bytes]:
    return [b""] * draw.choice((1, 2, 50))


_KINDS: Sequence[Callable[[random.Random, str], list[bytes]]] = (
    *(_noise, _cut, _flipped, _flipped, _another_version, _odd_field, _odd_body, _odd_body, _odd_setting),
    *(_raw_value, _raw_in_body, _deep, _long_id, _unknown_verb, _wrong_frames, _wrong_frames, _empty),
)
