"""The messages of the trainer's socket, validated on arrival, without torch."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agents.model import protocol
from agents.model.protocol import ReplyCache, RpcReply, RpcRequest, error_of, error_reply
from agents.model.steering.wire import Direction
from agents.trainer.messages import Example, Settings, StepReport, TrainRequest
from agents.trainer.wire import load, pack_tokens, pack_train, unpack_tokens, unpack_train
from corpus.errors import IntegrityFault, StepRefused, TrainerFault

REQUEST = TrainRequest(
    objective="dpo",
    settings=Settings(lr=1e-3, betas=(0.8, 0.9), scale=2.0),
    seed=1 << 60,
    parent="ab" * 32,
    examples=(
        Example(context=(1, 2), chosen=(3,), rejected=(4, 5), weight=0.5, reference_chosen=-1.5),
        Example(context=(6,), chosen=(7, 8), rejected=(9,)),
    ),
)


def over_the_wire(body: Mapping[str, Any], frames: list[bytes]) -> RpcRequest:
    return protocol.unpack_request(
        protocol.pack_request(RpcRequest(id="1", verb="train", body=body, frames=frames))
    )


def test_a_train_request_arrives_as_it_was_sent() -> None:
    arrived = over_the_wire(*pack_train(REQUEST))
    assert unpack_train(arrived.body, arrived.frames) == REQUEST


def test_the_directions_of_an_update_travel_with_it() -> None:
    steered = replace(
        REQUEST,
        settings=replace(REQUEST.settings, prevent={"echoing": 20.0}),
        prevent=(Direction(layer=2, data=bytes(16)), Direction(layer=0, data=b"\0\0\x80?" * 4)),
    )
    body, frames = pack_train(steered)
    arrived = over_the_wire(body, frames)
    assert unpack_train(arrived.body, arrived.frames) == steered
    for wrong in (frames[:-1], [*frames[:-1], b"123"]):
        with pytest.raises(TrainerFault, match="do not match"):
            unpack_train(body, wrong)
    with pytest.raises(TrainerFault, match="prevent has strengths"):
        Settings(lr=1e-3, prevent={"echoing": float("nan")})


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"objective": "ppo"}, "objective"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"surplus": 1}, "no field surplus"),
        ({"weights": [1.0]}, "do not match"),
        ({"references": [[None], [None, None]]}, "needs the field references.0.1"),
        ({"references": [[None] * 3, [None, None]]}, "references.0 is .* at most 2 items"),
        ({"settings": {"lr": "fast"}}, "lr"),
        ({"settings": {"lr": 0}}, "above 0"),
        ({"settings": {}}, "needs the field settings.lr"),
    ],
)
def test_an_invalid_field_is_refused_by_name(change: dict[str, Any], complaint: str) -> None:
    body, frames = pack_train(REQUEST)
    with pytest.raises(TrainerFault, match=complaint):
        unpack_train({**over_the_wire(body, frames).body, **change}, frames)


def test_an_example_with_an_empty_side_is_refused() -> None:
    body, frames = pack_train(REQUEST)
    for place in range(3):
        holed = [*frames[:place], b"", *frames[place + 1 :]]
        with pytest.raises(TrainerFault, match="empty side"):
            unpack_train(over_the_wire(body, holed).body, holed)


def test_tokens_travel_as_int32() -> None:
    assert unpack_tokens(pack_tokens([0, 1, 2**31 - 1])) == (0, 1, 2**31 - 1)
    assert pack_tokens([1]) == b"\1\0\0\0"
    with pytest.raises(TrainerFault, match="int32"):
        unpack_tokens(b"12345")


def test_an_error_arrives_as_its_own_class() -> None:
    for fault in (StepRefused("too large"), IntegrityFault("damaged"), TrainerFault("no")):
        reply = protocol.unpack_reply(protocol.pack_reply(error_reply("1", fault)))
        actual = error_of(reply)
        assert type(actual) is type(fault) and str(actual) == str(fault)
    foreign = error_of(error_reply("1", ZeroDivisionError("by zero")))
    assert type(foreign) is TrainerFault and "ZeroDivisionError" in str(foreign)
    assert type(error_of(RpcReply(id="1", kind="error", body={"error": "annotations"}))) is TrainerFault


def test_a_reply_cache_answers_known_requests_and_forgets_the_oldest() -> None:
    memory = ReplyCache(size=2)
    for name in ("a", "b", "c"):
        memory.keep(name, name.encode(), [name.encode()])
    assert memory.recall("a", b"a") is None and memory.recall("c", b"c") == [b"c"] and "b" in memory
    with pytest.raises(TrainerFault, match="used for another request"):
        memory.recall("c", b"other")


def test_a_report_with_a_metric_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(TrainerFault, match=r"StepReport\.metrics\.loss is 'low'"):
        load(StepReport, {"step": 1, "steps": 2, "metrics": {"loss": "low"}})


def test_the_client_needs_no_torch() -> None:
    code = "import sys, agents.trainer.client; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
