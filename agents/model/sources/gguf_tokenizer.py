"""The conversion of a GGUF file's tokenizer into one of transformers.

A GGUF file has the vocabulary of a tokenizer and the name of its kind. The name alone says how the tokenizer
normalises and splits text, so this module has the rules of each kind.

Invariant: an unknown kind is refused, because a guess would give other tokens than the model was trained
with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agents.model.sources.gguf_file import GgufFile
from corpus.errors import ConfigError

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
"""Numbers of llama.cpp's types of tokens."""
_SPACE = "\u2581"
"""The character that SentencePiece writes for a space."""
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    "llama-bpe": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}",
    "qwen2": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}",
}
"""Patterns that split a text into words before the merges, by the kind of tokenizer."""
_SAME_AS = {
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "smaug-bpe": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
}
"""Kinds that have the rules of another kind."""
KINDS = ("gpt-2", "smollm", *_SPLITS, *_SAME_AS)
"""The kinds of byte-level tokenizers that are known here."""


def tokenizer_of(file: GgufFile, chat_template: str) -> Any:
    """Return the file's tokenizer as a fast tokenizer of transformers, with this chat template."""
    from transformers import PreTrainedTokenizerFast

    tokens = _strings(file, "tokenizer.ggml.tokens")
    kind = file.text("tokenizer.ggml.model")
    if kind == "gpt2":
        backend, begins = _byte_level(file, tokens)
    elif kind == "llama":
        backend, begins = _sentencepiece(file, tokens)
    else:
        raise ConfigError(
            f"{file.path} has a tokenizer of the kind {kind!r}, which cannot be converted here "
            "(gpt2 and llama can): name the model's safetensors directory instead"
        )
    _add_whole_tokens(file, backend, tokens)
    named = {
        f"{name}_token": tokens[number]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (number := _token_id(file, key, len(tokens))) is not None
    }
    if file.value("tokenizer.ggml.add_bos_token", begins) and "bos_token" in named:
        _begin_with(backend, named["bos_token"], tokens.index(named["bos_token"]))
    named.setdefault("pad_token", named.get("eos_token", tokens[0]))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=chat_template,
        model_max_length=file.whole(f"{file.family}.context_length"),
        clean_up_tokenization_spaces=False,
        **named,
    )


def end_ids(file: GgufFile) -> list[int]:
    """Return the tokens that end an answer, as the file names them."""
    count = len(_strings(file, "tokenizer.ggml.tokens"))
    numbers = (_token_id(file, key, count) for key in ("eos", "eot", "eom"))
    return sorted({number for number in numbers if number is not None})


def _token_id(file: GgufFile, key: str, count: int) -> int | None:
    """Return the number of the special token that the file names under `key`; None if it names none.

    `count` is the number of tokens in the vocabulary.
    """
    number = file.value(f"tokenizer.ggml.{key}_token_id")
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < count:
        raise file.damaged(f"its {key} token is number {number}, and it has {count} tokens")
    return number


def _strings(file: GgufFile, key: str) -> list[str]:
    """Return the list of texts of the metadata key, which the file must have."""
    values = file.value(key)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise file.damaged(f"it has no {key}")
    return values


def _types(file: GgufFile, tokens: Sequence[str]) -> list[int]:
    """Return llama.cpp's type of each token."""
    types = file.value("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise file.damaged("its tokens and their types are not equally many")
    return types


def _byte_level(file: GgufFile, tokens: Sequence[str]) -> tuple[Any, bool]:
    """Return a byte-level tokenizer, and whether it begins a text with the token `bos` by default."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    kind = file.text("tokenizer.ggml.pre")
    kind = _SAME_AS.get(kind, kind)
    if kind not in KINDS:
        raise ConfigError(
            f"{file.path} splits text by {kind!r}, which is not known here ({', '.join(KINDS)} are): "
            "name the model's safetensors directory instead"
        )
    merges = []
    for merge in _strings(file, "tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    # If the vocabulary is smaller than the embedding, llama.cpp adds tokens that are not in use.
    vocabulary = {
        token: number
        for number, (token, kind_of) in enumerate(zip(tokens, _types(file, tokens), strict=True))
        if not (kind_of == _UNUSED and token.startswith("[PAD"))
    }
    try:
        backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=kind == "llama-bpe"))
    except Exception as error:  # the package tokenizers raises no narrower class
        raise file.damaged(f"its merges do not fit its tokens: {error}") from error
    if kind in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[kind]), behavior="isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    else:
        parts: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        if kind == "smollm":
            parts.insert(0, pre_tokenizers.Digits(individual_digits=True))
        backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    if kind == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend, kind == "llama-bpe"


def _sentencepiece(file: GgufFile, tokens: list[str]) -> tuple[Any, bool]:
    """Return a SentencePiece tokenizer, and whether it begins a text with the token `bos` by default."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    is_gemma = file.family.startswith("gemma")
    if is_gemma:
        # A Gemma file writes runs of spaces as plain spaces, and its scores do not give the order of merges.
        spelled = [_SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
        scores = [float(-number) for number in range(len(tokens))]
    else:
        spelled, scores = tokens, file.value("tokenizer.ggml.scores", [])
    types = _types(file, tokens)
    if len(scores) != len(tokens):
        raise file.damaged("its tokens and their scores are not equally many")
    vocabulary = {token: number for number, token in enumerate(spelled)}
    mergeable = {
        token: scores[number]
        for token, number in vocabulary.items()
        if types[number] not in (_CONTROL, _BYTE, _UNUSED)
    }
    unknown = _token_id(file, "unknown", len(tokens))
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            _merges(vocabulary, mergeable),
            unk_token=None if unknown is None else spelled[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    back: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.value("tokenizer.ggml.add_space_prefix", not is_gemma):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        back.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = spaces
    if is_gemma:
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence(back)
    return backend, True


def _merges(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the merges of a SentencePiece vocabulary: all pairs of tokens that join to a scored token.

    Merges into tokens with a higher score come first.
    """
    merges: list[tuple[float, int, int, str, str]] = []
    for token, score in scores.items():
        for place in range(1, len(token)):
            left, right = token[:place], token[place:]
            if left in vocabulary and right in vocabulary:
                merges.append((-score, vocabulary[left], vocabulary[right], left, right))
    merges.sort()
    return [(left, right) for *_, left, right in merges]


def _add_whole_tokens(file: GgufFile, backend: Any, tokens: Sequence[str]) -> None:
    """Add to `backend` the tokens that are never split: those of the types control and user-defined."""
    from tokenizers import AddedToken

    numbered = list(zip(tokens, _types(file, tokens), strict=True))
    control = [token for token, kind in numbered if kind == _CONTROL]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    added = [token for token, kind in numbered if kind == _USER_DEFINED and token.strip(" ")]
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in added])


def _begin_with(backend: Any, token: str, number: int) -> None:
    """Set the tokenizer to begin every text with this token; `number` is the token's number."""
    from tokenizers import processors

    backend.post_processor = processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", "$B"], special_tokens=[(token, number)]
    )
