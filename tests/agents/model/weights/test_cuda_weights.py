"""Shared weights over CUDA IPC: what crosses the socket, and on a GPU two real processes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zmq

from agents.model import protocol
from agents.model.protocol import RpcRequest
from agents.model.weights import cuda_ipc
from agents.model.weights.shared import HEADER_BYTES, Entry, SharedWeights
from corpus.errors import IntegrityFault, TrainerFault

DEVICE = 3
ARGUMENTS = (
    *(torch.Tensor, torch.Size([6, 4]), (4, 1), 8, torch.storage.TypedStorage, torch.bfloat16),
    *(DEVICE, bytes(range(66)), 4096, 512, False, b"/torch_77_abc", 5, bytes(range(128, 192)), True),
)
"""The arguments that `reduce_tensor` returns for a CUDA tensor, with invented handles."""


def needs_gpu(test: object) -> object:
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")(test))


def test_a_handle_survives_json_except_for_its_device_number() -> None:
    sent = json.dumps(cuda_ipc._HANDLES.dump_python([cuda_ipc.Handle.of_arguments(ARGUMENTS)], mode="json"))
    (handle,) = cuda_ipc._HANDLES.validate_python(json.loads(sent))
    assert handle.arguments(1) == (*ARGUMENTS[:6], 1, *ARGUMENTS[7:])


@pytest.mark.parametrize("change", [{"memory": None}, {"shape": "6"}, {"nbytes": None}, {"dtype": 3}])
def test_a_malformed_handle_is_refused(change: dict[str, object]) -> None:
    dumped = cuda_ipc._HANDLES.dump_python([cuda_ipc.Handle.of_arguments(ARGUMENTS)], mode="json")
    with pytest.raises(ValueError, match=next(iter(change))):
        cuda_ipc._HANDLES.validate_python([dumped[0] | change])


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Path]:
    """Serve weights without handles, because they are on the CPU; return the socket."""
    path = tmp_path / cuda_ipc.SOCKET_NAME
    lending = cuda_ipc.IpcExporter(path, [torch.zeros(3)])
    yield path
    lending.close()


def test_an_exporter_that_cannot_export_says_so_and_keeps_answering(exporter: Path) -> None:
    for _ in range(2):
        with pytest.raises(IntegrityFault, match="weights on cpu have no CUDA handles"):
            cuda_ipc.open_tensors(exporter)
    assert exporter.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "frames", [[b"\xff"], [b"{}"], protocol.pack_request(RpcRequest(id="1", verb="train", body={}))]
)
def test_an_exporter_answers_a_malformed_request_with_an_error(exporter: Path, frames: list[bytes]) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(f"ipc://{exporter}")
        socket.send_multipart(frames)
        assert socket.poll(10_000)
        assert isinstance(protocol.error_of(protocol.unpack_reply(socket.recv_multipart())), TrainerFault)


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_memory_that_cannot_be_exported_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:512,expandable_segments:True")
    with pytest.raises(IntegrityFault, match="start vLLM without"):
        cuda_ipc.require_exportable([torch.zeros(3)])


def test_weights_on_several_devices_or_not_contiguous_are_refused() -> None:
    with pytest.raises(IntegrityFault, match="lie on cpu, meta"):
        cuda_ipc.require_exportable([torch.zeros(3), torch.zeros(3, device="meta")])
    with pytest.raises(IntegrityFault, match="not contiguous"):
        cuda_ipc.require_exportable([torch.zeros(3, 4).T])


def test_an_entry_of_exported_weights_is_the_part_of_its_tensor_at_its_offset(tmp_path: Path) -> None:
    path, storage = tmp_path / "weights.bin", torch.arange(100.0)
    path.write_bytes(bytes(HEADER_BYTES))
    first, second = storage[10:34].view(6, 4), storage[40:44]
    entries = (
        Entry(name="q", offset=HEADER_BYTES, shape=(4, 4), dtype="float32"),
        Entry(name="k", offset=HEADER_BYTES + 4 * 4 * 4, shape=(2, 4), dtype="float32"),
        Entry(name="norm", offset=HEADER_BYTES + 256, shape=(4,), dtype="float32"),
    )
    shared = SharedWeights(
        path, HEADER_BYTES + 512, entries, "m", {HEADER_BYTES: first, HEADER_BYTES + 256: second}
    )
    assert torch.equal(shared.tensors["q"], first[:4])
    assert torch.equal(shared.tensors["k"], first[4:])
    assert torch.equal(shared.tensors["norm"], second)
    shared.tensors["k"].fill_(-1)
    assert storage[26:34].eq(-1).all() and storage[34] == 34
    assert shared.bump() == 1


TRAINER = """
import sys
from pathlib import Path
from agents.model.weights.shared import SharedWeights

shared = SharedWeights.attach(Path(sys.argv[1]))
assert all(tensor.is_cuda for tensor in shared.tensors.values())
assert shared.tensors["lm_head"].data_ptr() == shared.tensors["embed"].data_ptr()
shared.dirty = True
shared.tensors["v"].add_(1)
shared.tensors["embed"].mul_(2)
shared.bump()
shared.holds = "ab" * 32
"""
"""Attaches, edits and goes, as a trainer does."""


def in_rows(served: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Split `qkv` into three, as a vLLM model family does."""
    whole = next(entry for entry in served if entry.name == "qkv")
    row = 16 * 2
    cut = [(0, "q", 32), (32, "k", 16), (48, "v", 16)]
    parts = [
        replace(whole, name=name, offset=whole.offset + at * row, shape=(rows, 16)) for at, name, rows in cut
    ]
    return (*parts, *(entry for entry in served if entry is not whole))


@needs_gpu
def test_writes_of_another_process_are_seen_by_the_owner_and_each_process_gets_its_own_export(
    tmp_path: Path,
) -> None:
    embed = torch.nn.Parameter(torch.ones(100, 16, device="cuda", dtype=torch.bfloat16))
    qkv = torch.nn.Parameter(torch.zeros(64, 16, device="cuda", dtype=torch.bfloat16))
    before = (embed.data_ptr(), qkv.data_ptr())
    path, tensors = tmp_path / "weights.bin", {"embed": embed, "qkv": qkv, "lm_head": embed}
    shared = SharedWeights.create(path, tensors, model="m", naming=in_rows, adopt=True)
    assert path.stat().st_size == HEADER_BYTES and (embed.data_ptr(), qkv.data_ptr()) == before
    for number in (1, 2):
        command = [sys.executable, "-W", "error", "-c", TRAINER, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert bool(qkv[48:].eq(number).all()) and bool(qkv[:48].eq(0).all())
        assert bool(embed.eq(2**number).all())
        assert shared.version == number and shared.dirty and shared.holds == "ab" * 32


@needs_gpu
def test_a_trainer_that_cannot_see_the_gpu_reports_it(tmp_path: Path) -> None:
    weights = {"w": torch.zeros(8, 8, device="cuda")}
    SharedWeights.create(tmp_path / "weights.bin", weights, model="m", adopt=True)
    code = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n" + TRAINER
    command = [sys.executable, "-c", code, str(tmp_path / "weights.bin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CUDA_VISIBLE_DEVICES" in done.stderr
