"""The content that a model directory may have."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from agents.model.safety import check_model_dir, check_safetensors
from corpus.errors import UnsafeModel


@pytest.fixture
def copy(model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


def test_a_plain_safetensors_directory_is_accepted(model_dir: Path) -> None:
    check_model_dir(model_dir)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_a_configuration_that_names_code_is_refused(copy: Path, name: str) -> None:
    path = copy / name
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**config, "inner": [{"auto_map": {"AutoModel": "evil--modeling.Evil"}}]}))
    with pytest.raises(UnsafeModel, match="auto_map"):
        check_model_dir(copy)


def test_python_files_beside_the_weights_are_refused(copy: Path) -> None:
    (copy / "modeling_tiny.py").write_text("import os")
    with pytest.raises(UnsafeModel, match=r"Python code \(modeling_tiny.py\)"):
        check_model_dir(copy)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".pkl", ".ckpt"])
def test_weights_offered_only_as_a_pickle_are_refused(copy: Path, suffix: str) -> None:
    (copy / "model.safetensors").rename(copy / f"pytorch_model{suffix}")
    with pytest.raises(UnsafeModel, match="only as a pickle"):
        check_model_dir(copy)


def test_a_pickle_beside_safetensors_is_left_unread_and_accepted(copy: Path) -> None:
    (copy / "training_args.bin").write_bytes(b"\x80\x04.")
    check_model_dir(copy)


def test_a_torch_file_renamed_to_safetensors_is_identified(copy: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, copy / "model.safetensors")
    with pytest.raises(UnsafeModel, match=r"zip file as torch.save writes"):
        check_model_dir(copy)


def test_a_pickle_renamed_to_safetensors_is_identified(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(pickle.dumps({"weight": list(range(100))}))
    with pytest.raises(UnsafeModel, match="it is a pickle, renamed"):
        check_model_dir(copy)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "header length is impossible"),
        (b"\xff" * 16, "header length is impossible"),
        ((4).to_bytes(8, "little") + b"oops", "header is not JSON"),
        ((4).to_bytes(8, "little") + b"[42]", "header is not an object"),
        ((8).to_bytes(8, "little") + b'{"a": 1}', "'a' has no offsets"),
        ((32).to_bytes(8, "little") + b'{"a": {"data_offsets": [0, 64]}}', "lies past its end"),
        ((32).to_bytes(8, "little") + b'{"a": {"data_offsets": [8, -1]}}', "lies past its end"),
    ],
)
def test_a_malformed_safetensors_file_is_refused_with_the_reason(
    tmp_path: Path, raw: bytes, reason: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(UnsafeModel, match=reason):
        check_safetensors(path)


def test_a_directory_without_weights_or_configuration_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(UnsafeModel, match=r"no .*safetensors"):
        check_model_dir(copy)
    (copy / "config.json").unlink()
    with pytest.raises(UnsafeModel, match=r"no config.json"):
        check_model_dir(copy)
    with pytest.raises(UnsafeModel, match="is not a directory"):
        check_model_dir(copy / "missing")
