"""A checkpoint exported as a Hugging Face directory: transformers loads it bit for bit."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.model.weights import hf_export
from agents.model.weights.hf_export import export, plan_export
from agents.model.weights.snapshot import from_raw, to_raw
from corpus.errors import GateRefused, IntegrityFault, UsageError
from corpus.recipe import MODEL_DIR
from store.tensors.raw import RawTensor, parse, pieces

Weights = dict[str, RawTensor]


def moved(weights: Mapping[str, RawTensor]) -> Weights:
    """Return other weights of the same shapes."""
    return {name: to_raw(from_raw(raw) * 1.25) for name, raw in weights.items()}


@pytest.fixture(scope="module")
def trained() -> Weights:
    """Return the embedded model's weights after an update."""
    return moved(parse(MODEL_DIR / "model.safetensors")[1])


def loaded(directory: Path) -> Weights:
    """Return the state of the model that transformers loads from a directory, aliases once."""
    state = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    return {name: to_raw(tensor) for name, tensor in state.items() if name != "lm_head.weight"}


def same(actual: Mapping[str, RawTensor], expected: Mapping[str, RawTensor]) -> bool:
    return actual.keys() == expected.keys() and all(
        (raw.dtype, raw.shape, bytes(raw.data)) == (actual[n].dtype, actual[n].shape, bytes(actual[n].data))
        for n, raw in expected.items()
    )


def test_transformers_loads_an_export_bit_for_bit_and_gives_the_same_answers(
    trained: Weights, tmp_path: Path
) -> None:
    files = export(plan_export(MODEL_DIR, trained), tmp_path / "out")
    assert same(loaded(tmp_path / "out"), trained)
    others = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    names = {path.name for path in MODEL_DIR.iterdir() if path.is_file()}
    assert {file["name"] for file in files} == names >= others | {"chat_template.jinja"}
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    model.load_state_dict({n: from_raw(raw) for n, raw in trained.items()}, strict=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Please book the bench."}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    answers = [
        one.generate(**asked, max_new_tokens=24, do_sample=False)[0].tolist() for one in (model, again)
    ]
    assert answers[0] == answers[1] and len(answers[0]) > asked["input_ids"].shape[1]


def test_the_reported_files_are_those_on_the_disk(trained: Weights, tmp_path: Path) -> None:
    import hashlib

    files = export(plan_export(MODEL_DIR, trained), tmp_path / "out")
    for file in files:
        whole = (tmp_path / "out" / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


# ---------------------------------------------------------------- other layouts


def a_directory(place: Path, files: Mapping[str, Mapping[str, RawTensor]], **config: object) -> Path:
    """Write a model directory with these weight files."""
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    for name, tensors in files.items():
        (place / name).write_bytes(b"".join(pieces(tensors)))
    return place


def raw(*numbers: float, dtype: str = "F32") -> RawTensor:
    return to_raw(torch.tensor(numbers, dtype={"F32": torch.float32, "BF16": torch.bfloat16}[dtype]))


def written(directory: Path) -> dict[str, Weights]:
    return {path.name: parse(path)[1] for path in sorted(directory.glob("*.safetensors"))}


def test_shards_names_types_and_the_index_stay_and_what_is_not_trained_is_copied(tmp_path: Path) -> None:
    first = {
        "model.language_model.layers.0.mlp.up_proj.weight": raw(1, 2, dtype="BF16"),
        "model.visual.x": raw(7, 8),
    }
    second = {"model.language_model.norm.weight": raw(3, dtype="BF16"), "mtp.fc.weight": raw(9)}
    source = a_directory(tmp_path / "in", {"m-1-of-2.safetensors": first, "m-2-of-2.safetensors": second})
    index = {"metadata": {"total_size": 18}, "weight_map": {n: "m-1-of-2.safetensors" for n in first}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    (source / "pytorch_model.bin.index.json").write_text("{}")
    (source / "model.onnx").write_bytes(b"old weights")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    weights = {
        "model.layers.0.mlp.up_proj.weight": raw(5, 6, dtype="BF16"),
        "model.norm.weight": raw(4, dtype="BF16"),
    }
    plan = plan_export(source, weights)
    export(plan, tmp_path / "out")
    exported = written(tmp_path / "out")
    assert same(exported["m-1-of-2.safetensors"], {**first, **{next(iter(first)): raw(5, 6, dtype="BF16")}})
    assert same(exported["m-2-of-2.safetensors"], {**second, **{next(iter(second)): raw(4, dtype="BF16")}})
    assert sorted(plan.copied) == ["model.visual.x", "mtp.fc.weight"]
    assert json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text()) == index
    rest = {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert rest - set(exported) == {
        "config.json", "model.safetensors.index.json", "additional_chat_templates/tools.jinja",
    }  # fmt: skip


@pytest.mark.parametrize("stored", ["lm_head.weight", "model.embed_tokens.weight"])
def test_tied_embeddings_come_from_the_checkpoint_under_both_names(stored: str, tmp_path: Path) -> None:
    """A checkpoint has them once; the source file's second copy would be stale."""
    own = {"lm_head.weight": raw(1), "model.embed_tokens.weight": raw(1)}
    source = a_directory(tmp_path / "in", {"model.safetensors": own}, tie_word_embeddings=True)
    plan = plan_export(source, {stored: raw(2)})
    export(plan, tmp_path / "out")
    exported = written(tmp_path / "out")["model.safetensors"]
    assert {name: from_raw(tensor).item() for name, tensor in exported.items()} == dict.fromkeys(own, 2.0)
    assert plan.copied == []


def test_a_checkpoint_in_a_wider_type_is_written_in_the_files_type_when_no_bit_is_lost(
    tmp_path: Path,
) -> None:
    source = a_directory(
        tmp_path / "in", {"model.safetensors": {"a": raw(1, 2, dtype="BF16")}}, dtype="bfloat16"
    )
    export(plan_export(source, {"a": raw(0.5, -3)}), tmp_path / "out")
    assert same(written(tmp_path / "out")["model.safetensors"], {"a": raw(0.5, -3, dtype="BF16")})


def test_where_bits_would_be_lost_the_checkpoints_type_is_written_and_the_configuration_says_so(
    tmp_path: Path,
) -> None:
    own = {"a": raw(1, 2, dtype="BF16"), "b": raw(1, dtype="BF16")}
    source = a_directory(
        tmp_path / "in", {"model.safetensors": own}, torch_dtype="bfloat16", text_config={"dtype": "bfloat16"}
    )
    index = {
        "metadata": {"total_size": 6},
        "weight_map": {"a": "model.safetensors", "b": "model.safetensors"},
    }
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    plan = plan_export(source, {"a": raw(0.1, -3), "b": raw(2)})
    export(plan, tmp_path / "out")
    assert plan.retyped == ["a"]
    exported = written(tmp_path / "out")["model.safetensors"]
    assert same(exported, {"a": raw(0.1, -3), "b": raw(2, dtype="BF16")})
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"dtype": "float32", "text_config": {"dtype": "float32"}}
    assert (
        json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
        == 10
    )


def test_the_metadata_of_a_file_stays(tmp_path: Path) -> None:
    source = a_directory(tmp_path / "in", {})
    save_file({"a": np.float32([1])}, source / "model.safetensors", metadata={"format": "pt"})
    export(plan_export(source, {"a": raw(2)}), tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"} and file.get_tensor("a").tolist() == [2.0]


def test_every_tensor_is_aligned_whatever_the_order_in_the_source_file(tmp_path: Path) -> None:
    source = a_directory(tmp_path / "in", {})
    header = {
        "mask": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    text = json.dumps(header).encode()
    (source / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\1\0\0\0\0")
    export(plan_export(source, {"a": raw(2)}), tmp_path / "out")
    whole = (tmp_path / "out" / "model.safetensors").read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    assert header["a"]["data_offsets"] == [0, 4] and header["mask"]["data_offsets"] == [4, 5]
    assert int.from_bytes(whole[:8], "little") % 8 == 0
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert (file.get_tensor("a").item(), file.get_tensor("mask").item()) == (2.0, 1)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "weights, sentence",
    [({"a": raw(1), "z": raw(1)}, "has z, which"), ({"a": raw(1, 2)}, r"\[2\] in the checkpoint")],
)
def test_weights_of_another_model_are_refused(weights: Weights, sentence: str, tmp_path: Path) -> None:
    source = a_directory(tmp_path / "in", {"model.safetensors": {"a": raw(1)}})
    with pytest.raises(IntegrityFault, match=sentence):
        plan_export(source, weights)


@pytest.fixture
def plan(tmp_path: Path) -> hf_export.ExportPlan:
    return plan_export(a_directory(tmp_path / "in", {"model.safetensors": {"a": raw(1)}}), {"a": raw(2)})


def test_a_non_empty_target_is_refused_and_an_empty_one_accepted(
    plan: hf_export.ExportPlan, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(UsageError, match="not an empty directory"):
            export(plan, tmp_path / name)
    assert (tmp_path / "full" / "mine").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    export(plan, tmp_path / "empty")
    export(plan, tmp_path / "new" / "deeper")
    for name in ("empty", "new/deeper"):
        assert (tmp_path / name / "config.json").is_file()


def test_free_space_is_checked_first(
    plan: hf_export.ExportPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.model.weights.hf_export.SPARE_BYTES", 10**18)
    with pytest.raises(GateRefused, match="free some space"):
        export(plan, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def broken(parts: Iterator[bytes]) -> Iterator[bytes]:
    yield next(parts)
    raise OSError("the disk is full")


def test_an_interrupted_export_leaves_nothing(
    plan: hf_export.ExportPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = hf_export._pieces
    monkeypatch.setattr(hf_export, "_pieces", lambda file: broken(iter(whole(file))))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="full"):
        export(plan, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_the_leftovers_of_a_killed_export_are_replaced_and_a_running_one_is_not_disturbed(
    plan: hf_export.ExportPlan, tmp_path: Path
) -> None:
    (tmp_path / "out.partial" / "folder").mkdir(parents=True)
    (tmp_path / "out.partial" / "half.safetensors").write_text("half")
    with hf_export._partial(tmp_path / "out") as partial:
        (partial / "mine").write_text("mine")
        with pytest.raises(GateRefused, match="another export"):
            export(plan, tmp_path / "out")
        assert [path.name for path in partial.iterdir()] == ["mine"]
    export(plan, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
