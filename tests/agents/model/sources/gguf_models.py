"""Tiny models and tokenizers of each family, and the GGUF files that llama.cpp would make of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFWriter, quants
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.tokenization_utils_base import generate_merges

TEXTS = [
    "How are you today? It's fine, isn't it.",
    "In 1984 there were 12345 of them;   three  spaces,\n\n and a tab\t.",
    "naïve 🙂 文字 e\u0301",
    "",
]
"""What the tokenizers are trained on, and compared by."""
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}{% set text = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ (first if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A model and its tokenizer, as their makers would publish them."""

    arch: str
    """llama.cpp's name of the family."""
    config: str
    settings: dict[str, Any]
    pre: str
    """llama.cpp's name of the way to split text; "" for SentencePiece."""
    template: str
    control: tuple[str, ...]
    added: tuple[str, ...] = ()
    """Whole tokens that are not control tokens."""
    eos: str
    bos: str | None = None
    type: GGMLQuantizationType = GGMLQuantizationType.F32
    """How the matrices are stored."""


_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THETA = {"rope_type": "default", "rope_theta": 50_000.0}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
KINDS = {
    "smollm2": Kind(
        arch="llama",
        config="LlamaConfig",
        settings={"rope_parameters": _THETA, "tie_word_embeddings": True},
        pre="smollm",
        template=CHATML,
        control=_IM,
        eos="<|im_end|>",
        bos="<|im_start|>",
    ),
    "llama3": Kind(
        arch="llama",
        config="LlamaConfig",
        settings={"rope_parameters": _LLAMA3_ROPE, "head_dim": 32, "tie_word_embeddings": True},
        pre="llama-bpe",
        template=LLAMA3,
        control=(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ),
        eos="<|end_of_text|>",  # the file says the end of a text; the template says the end of a turn
        bos="<|begin_of_text|>",
    ),
    "qwen2": Kind(
        arch="qwen2",
        config="Qwen2Config",
        settings={"rope_parameters": _THETA, "tie_word_embeddings": False},
        pre="qwen2",
        template=CHATML,
        control=_IM,
        eos="<|im_end|>",
    ),
    "qwen3": Kind(
        arch="qwen3",
        config="Qwen3Config",
        settings={"rope_parameters": _THETA, "tie_word_embeddings": True, "head_dim": 32},
        pre="qwen2",
        template=QWEN3,
        control=_IM,
        added=("<think>", "</think>"),
        eos="<|im_end|>",
    ),
    "gemma3": Kind(
        arch="gemma3",
        config="Gemma3TextConfig",
        settings={
            "num_hidden_layers": 7,  # the sixth sees everything
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        },
        pre="",
        template=GEMMA3,
        control=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        bos="<bos>",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """The model and the tokenizer that a GGUF file is made of."""

    kind: Kind
    model: Any
    tokenizer: Any
    tokens: list[str]
    types: list[int]
    merges: list[str]


def publish(kind: Kind) -> Published:
    """Make the model, with random weights, and train the tokenizer."""
    make = _byte_level if kind.pre else _sentencepiece
    backend, tokens, types, merges = make(kind)
    named = {"bos_token": kind.bos} if kind.bos else {}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=kind.eos,
        pad_token=kind.control[0],
        chat_template=kind.template,
        **named,
    )
    torch.manual_seed(0)
    config = getattr(transformers, kind.config)(
        **{**_SHAPE, "vocab_size": len(tokens), "pad_token_id": 0, **kind.settings},
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Far from where training begins, so that an error anywhere shows.
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() == 1 else 0.1))
    return Published(kind=kind, model=model, tokenizer=tokenizer, tokens=tokens, types=types, merges=merges)


def write(
    published: Published, path: Path, change: Callable[[GGUFWriter], None] | None = None, **more: Any
) -> Path:
    """Write the GGUF file; `change` may add to it, and `more` replaces fields of the kind."""
    kind, config = replace(published.kind, **more), published.model.config
    writer = GGUFWriter(path, kind.arch)
    writer.add_name(f"Tiny {kind.arch}")
    writer.add_license("apache-2.0")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if (head_dim := kind.settings.get("head_dim")) is not None:
        writer.add_key_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
    _write_rope(writer, config)
    _write_tokenizer(writer, published, kind)
    tied = config.tie_word_embeddings
    for name, parameter in published.model.named_parameters():
        if not (tied and name == "lm_head.weight"):
            _write_tensor(writer, kind, config, name, parameter.detach().numpy())
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_rope(writer: GGUFWriter, config: Any) -> None:
    rope = config.rope_parameters
    if "full_attention" in rope:
        writer.add_sliding_window(config.sliding_window)
        rope = rope["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_string(f"{writer.arch}.rope.scaling.type", "linear")
        writer.add_float32(f"{writer.arch}.rope.scaling.factor", rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(rope, config.head_dim))


def _llama3_factors(rope: dict[str, Any], head_dim: int) -> Any:
    """The factors as llama.cpp's converter computes them."""
    frequencies = 1.0 / rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context, factors = rope["original_max_position_embeddings"], []
    for frequency in frequencies:
        wave = 2 * np.pi / frequency
        if wave < context / high:
            factors.append(1.0)
        elif wave > context / low:
            factors.append(rope["factor"])
        else:
            smooth = (context / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def _write_tokenizer(writer: GGUFWriter, published: Published, kind: Kind) -> None:
    tokens = published.tokens
    writer.add_tokenizer_model("gpt2" if kind.pre else "llama")
    writer.add_token_list(tokens)
    writer.add_token_types(published.types)
    if kind.pre:
        writer.add_tokenizer_pre(kind.pre)
        writer.add_token_merges(published.merges)
    else:
        writer.add_token_scores([-1000.0] * len(tokens))
        writer.add_add_space_prefix(False)
        writer.add_unk_token_id(tokens.index("<unk>"))
    writer.add_eos_token_id(tokens.index(kind.eos))
    writer.add_pad_token_id(0)
    if kind.bos:
        writer.add_bos_token_id(tokens.index(kind.bos))
    writer.add_add_bos_token(kind.bos is not None and kind.pre != "smollm")
    if kind.template:
        writer.add_chat_template(kind.template)


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_GEMMA_NAMES = {
    **_GGUF_NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def _write_tensor(writer: GGUFWriter, kind: Kind, config: Any, name: str, array: Any) -> None:
    module, _, suffix = name.rpartition(".")
    names = _GEMMA_NAMES if kind.arch == "gemma3" else _GGUF_NAMES
    if module.startswith("model.layers."):
        _, _, number, module = module.split(".", 3)
        title = f"blk.{number}.{names[module]}.{suffix}"
    else:
        title = f"{names[module]}.{suffix}"
    if kind.arch == "llama" and module in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config.num_attention_heads if "q_proj" in module else config.num_key_value_heads
        array = (
            array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
            .swapaxes(1, 2)
            .reshape(array.shape)
        )
    if kind.arch == "gemma3" and title.endswith("norm.weight"):
        array = array + 1
    if array.ndim == 1 or kind.type is GGMLQuantizationType.F32:
        writer.add_tensor(title, np.ascontiguousarray(array, dtype=np.float32))
    else:
        writer.add_tensor(title, quants.quantize(np.ascontiguousarray(array), kind.type), raw_dtype=kind.type)


def _byte_level(kind: Kind) -> tuple[Any, list[str], list[int], list[str]]:
    """A tokenizer as Qwen, Llama 3 and SmolLM2 have it."""
    backend = Tokenizer(models.BPE(ignore_merges=kind.pre == "llama-bpe"))
    if kind.pre == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        split = Regex(_SPLIT.replace("NUMBER", "{1,3}" if kind.pre == "llama-bpe" else ""))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(split, behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if kind.pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340 + len(kind.added),
        special_tokens=list(kind.control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in kind.added])
    state = json.loads(backend.to_str())
    numbers = backend.get_vocab(with_added_tokens=True)
    tokens = sorted(numbers, key=numbers.__getitem__)
    types = [3 if token in kind.control else 4 if token in kind.added else 1 for token in tokens]
    return backend, tokens, types, [" ".join(pair) for pair in state["model"]["merges"]]


def _sentencepiece(kind: Kind) -> tuple[Any, list[str], list[int], list[str]]:
    """A tokenizer as Gemma has it."""
    spaces = normalizers.Replace(" ", "\u2581")
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = spaces, split
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    known = [*kind.control, *bytes_]
    trainer = trainers.BpeTrainer(vocab_size=len(known) + 90, special_tokens=known, show_progress=False)
    learner.train_from_iterator(TEXTS[:2] * 3, trainer)
    numbers = learner.get_vocab()
    tokens = sorted(numbers, key=numbers.__getitem__)
    pieces = {token: -float(number) for token, number in numbers.items() if token not in known}
    merges = generate_merges(numbers, pieces)
    backend = Tokenizer(models.BPE(numbers, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer, backend.pre_tokenizer = spaces, split
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in kind.control])
    types = [3 if token in kind.control else 6 if token in known else 1 for token in tokens]
    spelled = [" " * len(token) if set(token) == {"\u2581"} and len(token) > 1 else token for token in tokens]
    return backend, spelled, types, []
