"""The trainer's socket survives messages that are malformed in any way, too large, or never read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from trainer_home import Home, request

from agents.model import protocol
from agents.model.protocol import RpcReply, RpcRequest
from bench._malformed import messages
from corpus.errors import TrainerFault

COUNT = 10_000
"""Messages here; `bench/trainer_process.py` sends 100,000."""
AT_ONCE = 100
LEAK_BYTES = 64 * 2**20
"""What the trainer's memory may grow by: what 64 waiting requests may take, and then no more."""


@pytest.fixture
def socket(home: Home) -> Iterator["zmq.Socket[bytes]"]:
    """Open a client that can send any frames."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(protocol.address(home.path / "run"))
        yield dealer


def answer(socket: "zmq.Socket[bytes]") -> RpcReply:
    """Return the next reply."""
    assert socket.poll(20_000), "no reply within 20 s"
    return protocol.unpack_reply(socket.recv_multipart())


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.parametrize(
    "frames, complaint",
    [
        ([b"not json"], "not JSON"),
        ([b""], "not JSON"),
        ([b"[" * 100_000], "not JSON"),
        ([b'{"v": NaN, "id": "a", "verb": "status", "body": {}}'], "not JSON"),
        ([b'{"v": 1, "id": "a", "verb": "status", "body": {"x": %s}}' % (b"9" * 5000)], "not JSON"),
        ([b'{"v": 2, "id": "a", "verb": "status", "body": {}}'], "version 2"),
        ([b'{"v": true, "id": "a", "verb": "status", "body": {}}'], "version True"),
        ([b'{"v": 1, "id": "a", "verb": "explode", "body": {}}'], "no verb"),
        ([b'{"v": 1, "id": "a", "verb": ["status"], "body": {}}'], "no verb"),
        ([b'{"v": 1, "id": "\\ud800", "verb": "train", "body": {}}'], "plain characters"),
        ([b'{"v": 1, "id": "a", "verb": "train", "body": {"objective": "orpo"}}'], "needs the field"),
        ([b'{"v": 1, "id": "a", "verb": "rollback", "body": {"checkpoint": "../x", "settled": true}}'], ""),
        (
            [b'{"v": 1, "id": "a", "verb": "activations", "body": {"layers": [1e999]}}'],
            "layers.0 is inf: Input should be a valid integer",
        ),
        ([b'{"v": 1, "id": "a", "verb": "logprobs", "body": {}}', b"abc", b"abcd"], "int32"),
    ],
)
def test_a_malformed_request_is_answered_with_an_error(
    socket: "zmq.Socket[bytes]", frames: list[bytes], complaint: str
) -> None:
    socket.send_multipart(frames)
    reply = answer(socket)
    assert reply.kind == "error" and complaint in reply.body["message"]
    assert reply.id == ("a" if b'"id": "a"' in frames[0] and complaint != "not JSON" else "unknown")


def test_each_of_ten_thousand_malformed_messages_is_answered_and_leaves_no_trace(
    home: Home, socket: "zmq.Socket[bytes]"
) -> None:
    pid, before, sent, middle = home.ask("status").pid, home.weights(), 0, 0
    for number, frames in enumerate(messages(COUNT, seed=3), start=1):
        socket.send_multipart(frames)
        if number % AT_ONCE == 0:
            for _ in range(AT_ONCE):
                answer(socket)
            sent = number
        if number == COUNT // 2:
            middle = resident(pid)
    assert sent == COUNT and not socket.poll(0)
    assert resident(pid) - middle < LEAK_BYTES
    status = home.ask("status")
    assert (status.pid, status.doing, status.holds, status.dirty) == (pid, "idle", home.first, False)
    assert home.serves(before)
    assert "Traceback" not in (log := home.log.read_text()), log  # each was refused on purpose
    assert home.ask("train", request(home.first)).steps == 3


def test_a_frame_over_the_limit_is_neither_received_nor_sent_by_our_client(
    home: Home, socket: "zmq.Socket[bytes]"
) -> None:
    pid = home.ask("status").pid
    before = resident(pid)
    status = protocol.pack_request(RpcRequest(id="s", verb="status", body={}))
    socket.send_multipart(status)
    assert answer(socket).id == "s"
    with socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
        socket.send_multipart([*status, bytes(4 * protocol.FRAME_BYTES)])
        assert monitor.poll(20_000), "the connection was not closed"
        socket.disable_monitor()
    assert resident(pid) - before < protocol.FRAME_BYTES
    assert home.ask("status").pid == pid
    with pytest.raises(TrainerFault, match="send less at once"):
        home.ask("logprobs", [([1], [2] * (protocol.FRAME_BYTES // 4 + 1))])


def test_a_client_that_reads_nothing_does_not_delay_others(home: Home, socket: "zmq.Socket[bytes]") -> None:
    status = protocol.pack_request(RpcRequest(id="s", verb="status", body={}))
    for _ in range(20_000):  # many more than fit between us: the rest of the answers is dropped
        assert socket.poll(20_000, zmq.POLLOUT), "the trainer waits for a client that reads nothing"
        socket.send_multipart(status)
    assert home.ask("status").doing == "idle"
    assert home.ask("train", request(home.first)).steps == 3
