"""The conversion of a GGUF file into a Hugging Face directory, with dequantized weights.

Invariant: the directory has the same model as the file, weight by weight. A file that lacks a weight of its
configuration is refused. At most one shard of the weights is in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agents.model.safety import check_model_dir
from agents.model.sources import gguf_families, gguf_tokenizer
from agents.model.sources.card import sha256_of, write_card
from agents.model.sources.directory import check_conversational, parameter_shapes
from agents.model.sources.folder import new_folder, require_room
from agents.model.sources.gguf_file import GgufFile, open_gguf
from corpus.aliases import Json
from corpus.errors import ConfigError

SHARD_BYTES = 2_000_000_000
"""Most bytes of weights in one shard (one safetensors file)."""
NOTES = (
    "Nightschool made this directory once from the GGUF file above. Its weights are the numbers that the "
    "quantized file stands for, written out; what quantization lost is not restored. The original model's "
    "own licence holds."
)
_SAMPLING = {"temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}
"""The names of sampling settings in transformers, by their names in llama.cpp."""


def convert(
    path: Path, target: Path, on_tensor: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Convert the GGUF file at `path` into the new directory `target`.

    After each tensor `on_tensor` is called with the number of tensors done, and the number of all tensors.
    """
    file = open_gguf(path)
    # An unknown family is refused here, before anything is written.
    settings = gguf_families.configuration(file)
    template = file.value("tokenizer.chat_template")
    if not isinstance(template, str):
        raise ConfigError(
            f"{path} has no chat template: name a model that was made for conversations (an instruct model)"
        )
    tokenizer = gguf_tokenizer.tokenizer_of(file, template)
    with new_folder(target) as folder:
        tokenizer.save_pretrained(folder)
        config = _config(file, settings, tokenizer)
        config.save_pretrained(folder)
        _generation(file, tokenizer, config).save_pretrained(folder)
        _write_weights(file, config, folder, on_tensor)
        _write_card(file, folder, str(config.dtype).removeprefix("torch."))
        check_model_dir(folder)
        check_conversational(folder)


def record_of(path: Path) -> dict[str, str]:
    """Return the fields of a directory's record that identify this GGUF file as the source."""
    return {"kind": "gguf", "sha256": sha256_of(path)}


def _config(file: GgufFile, settings: Json, tokenizer: Any) -> Any:
    """Return transformers' configuration of the file's model; `settings` are those of its class."""
    import transformers

    family = gguf_families.family_of(file)
    try:
        config = getattr(transformers, family.config_class)(
            **settings,
            dtype="bfloat16" if file.is_bfloat16 else "float32",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    except Exception as error:  # the class checks its settings, and may raise any exception
        raise file.damaged(f"its configuration makes no sense: {error}") from error
    config.architectures = [family.config_class.replace("Text", "").replace("Config", "ForCausalLM")]
    return config


def _generation(file: GgufFile, tokenizer: Any, config: Any) -> Any:
    """Return transformers' generation settings: the tokens that end an answer, and the file's sampling."""
    from transformers import GenerationConfig

    sampling = {
        ours: float(file.number(f"general.sampling.{theirs}"))
        for theirs, ours in _SAMPLING.items()
        if file.value(f"general.sampling.{theirs}") is not None
    }
    if "top_k" in sampling:
        sampling["top_k"] = int(sampling["top_k"])
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=gguf_tokenizer.end_ids(file) or None,
        pad_token_id=config.pad_token_id,
        **({"do_sample": True} if sampling else {}),
        **sampling,
    )


def _write_weights(file: GgufFile, config: Any, folder: Path, on_tensor: Callable[[int, int], None]) -> None:
    """Write the weights of the file's model into `folder`: one file, or several shards and their index."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    names = _names(file, config)
    size = torch.empty((), dtype=config.dtype).element_size()
    shards = list(_shards({name: size * int(file.tensors[name].n_elements) for name in names}))
    require_room(folder, size * sum(int(file.tensors[name].n_elements) for name in names))
    done, index = 0, {}
    for number, shard in enumerate(shards, 1):
        title = (
            "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        )
        tensors = {}
        for name in shard:
            tensor = torch.from_numpy(gguf_families.weight(file, name).copy())
            tensors[names[name]] = tensor.to(config.dtype).contiguous()
            index[names[name]] = title
            on_tensor(done := done + 1, len(names))
        try:
            save_file(tensors, folder / title, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"the weights cannot be written in {folder.parent} ({error})") from error
    if len(shards) > 1:
        write_index(folder, index)


def write_index(folder: Path, index: Mapping[str, str]) -> None:
    """Write the index file of a model with several shards; `index` has each weight's file, by its name."""
    import json

    text = json.dumps({"metadata": {}, "weight_map": dict(index)}, indent=2)
    (folder / "model.safetensors.index.json").write_text(text, "utf-8")


def _names(file: GgufFile, config: Any) -> dict[str, str]:
    """Return transformers' name of each tensor of the file, by its name in the file.

    Raises:
        IntegrityFault: The tensors are not exactly the parameters of the configuration's model.
    """
    wanted = parameter_shapes(config)
    names = {
        name: ours for name in file.tensors if (ours := gguf_families.weight_name(file, name)) is not None
    }
    for name, ours in names.items():
        shape = tuple(map(int, reversed(file.tensors[name].shape)))
        if wanted.pop(ours, None) != shape:
            raise file.damaged(f"{name} has the shape {shape}, which its configuration does not")
    if wanted:
        raise file.damaged(f"{min(wanted)} is missing")
    return names


def _shards(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the names of the weights of each shard; `sizes` has the bytes of each weight."""
    shard: list[str] = []
    nbytes = 0
    for name, size in sizes.items():
        if shard and nbytes + size > SHARD_BYTES:
            yield shard
            shard, nbytes = [], 0
        shard.append(name)
        nbytes += size
    yield shard


def _write_card(file: GgufFile, folder: Path, dtype: str) -> None:
    """Write the card and the record of the directory; `dtype` is the type of the written weights."""
    licence, title = file.value("general.license"), file.value("general.name")
    write_card(
        folder,
        title=title if isinstance(title, str) else file.path.stem,
        record={
            **record_of(file.path),
            "file": file.path.name,
            "family": file.family,
            "quantization": file.quantization,
            "written as": dtype,
        },
        notes=NOTES,
        front={"license": licence} if isinstance(licence, str) else {},
    )
