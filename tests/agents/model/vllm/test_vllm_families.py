"""vLLM's fused tensors, split and named as in Hugging Face's model; they are built here without vLLM."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from agents.model.describe import language_model_tensors
from agents.model.settings import ModelSettings
from agents.model.vllm.config import PluginConfig
from agents.model.vllm.served_directory import ServedDirectory
from agents.model.vllm.weights.export import export
from agents.model.vllm.weights.families import FAMILIES, family_of
from agents.model.vllm.weights.refusals import reason
from agents.model.weights import views
from agents.model.weights.shared import SharedWeights
from corpus.errors import IntegrityFault
from store.home import Home

TOKENS = torch.tensor([[3, 141, 59, 26, 5, 358, 97, 9, 323, 84, 62, 6]])
DENSE = ["qwen3-tied", "qwen3", "llama", "qwen2"]
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
PADDED = 512
"""Rows of vLLM's vocabularies: a multiple of 64."""


def fused(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that vLLM makes of these."""
    served: dict[str, torch.Tensor] = {}
    parts = {part: whole for whole, each in FUSED.items() for part in each}
    padded: dict[int, torch.Tensor] = {}
    for name, tensor in parameters.items():
        owner, _, leaf = name.rpartition(".")
        above, _, module = owner.rpartition(".")
        if module in parts:
            whole = f"{above}.{parts[module]}.{leaf}"
            of_it = [parameters[f"{above}.{part}.{leaf}"] for part in FUSED[parts[module]]]
            served[whole] = torch.cat(of_it)
        elif module in ("embed_tokens", "lm_head"):
            zeros = torch.zeros(PADDED - tensor.shape[0], tensor.shape[1], dtype=tensor.dtype)
            served[name] = padded.setdefault(tensor.data_ptr(), torch.cat([tensor, zeros]))
        else:
            served[name] = tensor.float() if leaf == "A_log" else tensor.clone()
    return served


@pytest.fixture(scope="module", params=[*DENSE, "qwen3.5"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make("qwen3", tmp_path_factory.mktemp("qwen3"))


def loaded(directory: Path) -> Any:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(directory, local_files_only=True).eval()


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.detach() for name, each in model.named_parameters(remove_duplicate=False)}


def served(directory: Path, served: Path, tensors: dict[str, torch.Tensor]) -> SharedWeights:
    config = AutoConfig.from_pretrained(directory)
    return SharedWeights.create(
        served / "weights.bin", tensors, model="tiny", naming=family_of(config).naming(config), adopt=True
    )


def test_views_of_fused_tensors_equal_the_model(directory: Path, tmp_path: Path) -> None:
    model = loaded(directory)
    shared = served(directory, tmp_path, fused(tensors_of(model)))
    built = views.build(shared, directory)
    with torch.no_grad():
        assert torch.equal(built(TOKENS).logits, model(TOKENS).logits)
    assert {name: tuple(each.shape) for name, each in built.named_parameters()} == {
        name: tuple(each.shape) for name, each in model.named_parameters()
    }


def test_an_edit_of_any_view_changes_only_the_served_tensor(directory: Path, tmp_path: Path) -> None:
    model = loaded(directory)
    tensors = fused(tensors_of(model))
    built = views.build(served(directory, tmp_path, tensors), directory)
    ours = dict(built.named_parameters())
    with torch.no_grad():
        for number, name in enumerate(ours, start=1):
            ours[name].fill_(number)
            model.get_parameter(name).fill_(number)
    for name, expected in fused(tensors_of(model)).items():
        assert torch.equal(tensors[name], expected), name


def test_only_the_language_model_of_a_multimodal_one_is_shared(tmp_path: Path) -> None:
    text = tiny_models.CONFIGS["qwen3.5"]()
    config = tiny_models.CONFIGS["qwen3.5-sees"]()
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(text).eval()
    tensors = {f"language_model.{name}": each for name, each in fused(tensors_of(model)).items()}
    tensors["visual.patch_embed.proj.weight"] = torch.zeros(3, 4)
    family = family_of(config.get_text_config())
    own = {name: each for name, each in tensors.items() if family.has(name)}
    shared = SharedWeights.create(
        tmp_path / "weights.bin", own, model="tiny", naming=family.naming(config.get_text_config())
    )
    with torch.no_grad():
        assert torch.equal(views.build(shared, tmp_path)(TOKENS).logits, model(TOKENS).logits)


def test_the_files_of_a_multimodal_model_are_read_as_those_of_its_language_model() -> None:
    files = {
        "model.language_model.norm.weight": 1,
        "lm_head.weight": 2,
        "model.visual.x": 3,
        "mtp.norm.weight": 4,
    }
    assert language_model_tensors(files) == {"model.norm.weight": 1, "lm_head.weight": 2}
    assert language_model_tensors({"model.norm.weight": 1}) == {"model.norm.weight": 1}


def test_rows_that_do_not_add_up_are_refused(qwen3: Path, tmp_path: Path) -> None:
    tensors = fused(tensors_of(loaded(qwen3)))
    name = "model.layers.0.self_attn.qkv_proj.weight"
    for surplus in (tensors[name][:-1], torch.cat([tensors[name], tensors[name][:1]])):
        with pytest.raises(IntegrityFault, match=f"{name} has {surplus.shape[0]} rows, its parts 256"):
            served(qwen3, tmp_path, tensors | {name: surplus.contiguous()})


def test_a_vocabulary_may_be_longer_but_not_shorter(qwen3: Path, tmp_path: Path) -> None:
    tensors = fused(tensors_of(loaded(qwen3)))
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:499].contiguous()
    with pytest.raises(IntegrityFault, match=r"lm_head\.weight has 499 rows, its parts 500"):
        served(qwen3, tmp_path, tensors)


def test_a_type_that_cannot_be_trained_is_refused(qwen3: Path, tmp_path: Path) -> None:
    tensors = fused(tensors_of(loaded(qwen3)))
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    with pytest.raises(IntegrityFault, match=r"model\.norm\.weight is int8: only bfloat16, float16, float32"):
        served(qwen3, tmp_path, tensors)


class _Tree(torch.nn.Module):
    """A module with these parameters, by their dotted names, as a loaded vLLM has them."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        parameters: dict[int, torch.nn.Parameter] = {}
        for name, tensor in tensors.items():
            served: torch.nn.Module = self
            *owners, leaf = name.split(".")
            for owner in owners:
                if not hasattr(served, owner):
                    served.add_module(owner, torch.nn.Module())
                served = getattr(served, owner)
            parameter = parameters.setdefault(id(tensor), torch.nn.Parameter(tensor, requires_grad=False))
            served.register_parameter(leaf, parameter)


def vllm_config(directory: Path, rank: int = 0) -> Any:
    config = SimpleNamespace(model=str(directory), hf_text_config=AutoConfig.from_pretrained(directory))
    return SimpleNamespace(model_config=config, parallel_config=SimpleNamespace(rank=rank))


@pytest.fixture
def shared_in(tmp_path: Path) -> Iterator[ServedDirectory]:
    served = ServedDirectory(tmp_path / "served")
    yield served
    served.release()


@pytest.fixture
def config(tmp_path: Path) -> PluginConfig:
    return PluginConfig(home=Home(tmp_path), model=ModelSettings(url="http://127.0.0.1:1"), database="")


def test_a_loaded_model_is_moved_into_shared_weights_with_tied_weights_once(
    tmp_path: Path, config: PluginConfig, shared_in: ServedDirectory
) -> None:
    directory = tiny_models.make("qwen3-tied", tmp_path / "model")
    module = _Tree(fused(tensors_of(loaded(directory))))
    shared = export(module, vllm_config(directory), config, shared_in)
    assert shared is not None and not shared_in.refused
    shared.tensors["model.embed_tokens.weight"].fill_(7)
    assert torch.equal(module.get_parameter("lm_head.weight")[:500], torch.full((500, 128), 7.0))
    assert torch.equal(module.get_parameter("lm_head.weight")[500:], torch.zeros(12, 128))


def test_a_model_that_does_not_match_is_left_unchanged_and_the_differences_are_logged(
    qwen3: Path, config: PluginConfig, shared_in: ServedDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = fused(tensors_of(loaded(qwen3)))
    del tensors["model.norm.weight"]
    tensors["model.layers.1.surplus"] = torch.ones(3)
    tensors["model.layers.0.mlp.down_proj.weight"] = torch.zeros(5, 64)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    module = _Tree(tensors)
    before = {name: (each.data_ptr(), each.clone()) for name, each in module.named_parameters()}
    with caplog.at_level(logging.ERROR):
        assert export(module, vllm_config(qwen3), config, shared_in) is None
    for difference in (
        "model.norm.weight is not served",
        "model.layers.1.surplus is served",
        "[5, 64]",
        "shares its",
    ):
        assert difference in shared_in.refused
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].getMessage() == f"nightschool: {shared_in.refused}. Serving on, untrained."
    assert not shared_in.weights_file.exists() and not shared_in.weights_file.with_suffix(".json").exists()
    for name, each in module.named_parameters():
        assert (each.data_ptr(), torch.equal(each, before[name][1])) == (before[name][0], True)


def test_only_the_first_of_several_workers_reports_a_refusal(
    qwen3: Path, config: PluginConfig, shared_in: ServedDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    module = _Tree(fused(tensors_of(loaded(qwen3))))
    assert export(module, vllm_config(qwen3, rank=1), config, shared_in, "for a reason") is None
    assert not caplog.records and not shared_in.directory.exists()
    assert export(module, vllm_config(qwen3), config, shared_in, "for a reason") is None
    assert len(caplog.records) == 1 and shared_in.refused == "for a reason"


def settings(**changed: Any) -> Any:
    """Return the used part of a `VllmConfig` of a model that can be trained, with these fields changed."""
    fields: dict[str, Any] = {
        "model_config.is_moe": False,
        "model_config.quantization": None,
        "model_config.enable_sleep_mode": False,
        "model_config.hf_overrides": {},
        "model_config.hf_text_config": SimpleNamespace(model_type="qwen3"),
        "parallel_config.tensor_parallel_size": 1,
        "parallel_config.pipeline_parallel_size": 1,
        "parallel_config.data_parallel_size": 1,
        "parallel_config.data_parallel_index": 0,
        "parallel_config.elastic_ep_max_dp_size": 1,
        "parallel_config.world_size": 1,
        "offload_config.uva.cpu_offload_gb": 0,
        "offload_config.prefetch.offload_group_size": 0,
        "lora_config": None,
        "quant_config": None,
    } | {name.replace("__", "."): value for name, value in changed.items()}
    config = SimpleNamespace()
    for name, value in fields.items():
        *owners, leaf = name.split(".")
        part = config
        for owner in owners:
            part = part.__dict__.setdefault(owner, SimpleNamespace())
        setattr(part, leaf, value)
    return config


def test_each_family_of_the_table_can_be_trained() -> None:
    for name in FAMILIES:
        assert reason(settings(model_config__hf_text_config=SimpleNamespace(model_type=name))) == ""


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("model_config__is_moe", True, "mixture of experts"),
        ("model_config__quantization", "fp8", "quantized weights"),
        ("quant_config", object(), "quantized weights"),
        ("model_config__enable_sleep_mode", True, "without --enable-sleep-mode"),
        ("parallel_config__tensor_parallel_size", 2, "--tensor-parallel-size 1"),
        ("parallel_config__pipeline_parallel_size", 2, "--pipeline-parallel-size 1"),
        ("parallel_config__data_parallel_size", 2, "--data-parallel-size 1"),
        ("parallel_config__data_parallel_index", 1, "--data-parallel-size 1"),
        ("parallel_config__elastic_ep_max_dp_size", 2, "--data-parallel-size 1"),
        ("parallel_config__world_size", 2, "one worker"),
        ("offload_config__uva__cpu_offload_gb", 4, "without --cpu-offload-gb"),
        ("offload_config__prefetch__offload_group_size", 2, "--offload-group-size"),
        ("lora_config", object(), "without --enable-lora"),
        ("model_config__hf_overrides", {"rope_theta": 1.0}, "config.json"),
        (
            "model_config__hf_text_config",
            SimpleNamespace(model_type="gemma"),
            "only llama, qwen2, qwen3, qwen3_5_text",
        ),
    ],
)
def test_each_configuration_that_cannot_be_trained_has_its_reason(
    field: str, value: Any, wanted: str
) -> None:
    assert wanted in reason(settings(**{field: value}))


def test_a_vllm_with_an_unknown_configuration_serves_on_untrained() -> None:
    config = settings()
    del config.offload_config
    assert "no attribute 'offload_config'" in reason(config)
