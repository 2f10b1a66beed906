"""A GGUF file of each family gives the directory of the model that it was made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

gguf = pytest.importorskip("gguf")

from gguf_models import (  # noqa: E402
    KINDS,
    TEXTS,
    Published,
    publish,
    write,
)

from agents.model.embedded.chat import ChatTokenizer  # noqa: E402
from agents.model.safety import check_model_dir  # noqa: E402
from agents.model.sources import from_gguf  # noqa: E402
from agents.model.sources.card import read_record, sha256_of  # noqa: E402
from agents.model.sources.from_gguf import convert  # noqa: E402
from corpus.errors import ConfigError, IntegrityFault, NightschoolError  # noqa: E402

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How are you today?"},
    {"role": "assistant", "content": "It's fine."},
    {"role": "user", "content": "  In 1984, isn't it?\n"},
]
Q = gguf.GGMLQuantizationType


@pytest.fixture(scope="session")
def published() -> dict[str, Published]:
    return {name: publish(kind) for name, kind in KINDS.items()}


@pytest.fixture(scope="session")
def made(published: dict[str, Published], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory that is made of a kind's file."""
    place = tmp_path_factory.mktemp("gguf")

    def directory(name: str) -> Path:
        if not (place / name).exists():
            convert(write(published[name], place / f"{name}.gguf"), place / name)
        return place / name

    return directory


@pytest.mark.parametrize("name", KINDS)
def test_the_directory_has_the_weights_and_the_configuration_of_the_model(
    name: str, published: dict[str, Published], made: Callable[[str], Path]
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(made(name)).eval()
    ids = torch.arange(40)[None] % len(published[name].tokens)
    with torch.no_grad():
        expected, logits = published[name].model(input_ids=ids).logits, model(input_ids=ids).logits
    assert type(model) is type(published[name].model)
    assert (expected - logits).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", KINDS)
def test_text_has_the_tokens_of_the_models_own_tokenizer(
    name: str, published: dict[str, Published], made: Callable[[str], Path]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(made(name))
    own = published[name].tokenizer
    for text in [
        *TEXTS,
        *published[name].kind.control,
        "<think>a</think>",
        "unseen: žluťoučký \u2581  kůň 7",
    ]:
        ids = own.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert tokenizer.decode(ids) == own.decode(ids)
    assert (tokenizer.eos_token, tokenizer.bos_token) == (own.eos_token, own.bos_token)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("thinks", [{}, {"enable_thinking": False}, {"enable_thinking": True}])
def test_conversations_have_the_tokens_of_apply_chat_template(
    name: str, thinks: dict[str, bool], published: dict[str, Published], made: Callable[[str], Path]
) -> None:
    chat = ChatTokenizer(transformers.AutoTokenizer.from_pretrained(made(name)))
    thoughtful = [
        *TALK[1:2],
        {"role": "assistant", "content": "<think>\nWell.\n</think>\n\nIt's fine."},
        TALK[3],
    ]
    for talk in (TALK, TALK[1:], TALK[1:2], thoughtful):
        expected = published[name].tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, return_dict=False, **thinks
        )
        assert chat.encode_chat(talk, settings=thinks) == expected


@pytest.mark.parametrize("name", KINDS)
def test_the_users_next_turn_opens_as_the_template_opens_it(name: str, made: Callable[[str], Path]) -> None:
    chat = ChatTokenizer(transformers.AutoTokenizer.from_pretrained(made(name)))
    asked, answered = TALK[1:2], TALK[1:3]
    whole = chat.encode_chat([*answered, {"role": "user", "content": "fine"}], add_generation_prompt=False)
    opened = chat.encode_chat(answered, role="user")
    assert whole[: len(opened)] == opened and "fine" in chat.decode(whole[len(opened) :])
    assert chat.encode_chat(asked) == [
        *chat.encode_chat(asked, add_generation_prompt=False),
        *chat.encode_chat([]),
    ]


@pytest.mark.parametrize("name", KINDS)
def test_a_request_opens_with_the_tokens_before_it_in_apply_chat_template(
    name: str, published: dict[str, Published], made: Callable[[str], Path]
) -> None:
    chat = ChatTokenizer(transformers.AutoTokenizer.from_pretrained(made(name)))
    for before in ([], TALK[:1], TALK[1:3], TALK[:3]):
        opened = chat.encode_chat(before, role="user")
        expected = published[name].tokenizer.apply_chat_template(
            [*before, {"role": "user", "content": "fine"}], return_dict=False
        )
        assert expected[: len(opened)] == opened and chat.decode(expected[len(opened) :]).startswith("fine")
        assert expected[-1] == chat.request_end or chat.request_end in expected[-2:]


SERVED = "gemma3"
"""The kind that a server is started for in every run: its turns end as no other's."""


@pytest.mark.parametrize(
    "name", [pytest.param(kind, marks=() if kind == SERVED else pytest.mark.slow) for kind in KINDS]
)
def test_the_embedded_server_answers_as_the_model_does_and_ends_where_its_turns_end(
    name: str, published: dict[str, Published], made: Callable[[str], Path], start_server: Callable[..., Any]
) -> None:
    kind, own, model = published[name].kind, published[name].tokenizer, published[name].model
    server = start_server("--model", str(made(name)))
    with server.http() as http:
        (card,) = http.get("/v1/models").json()["data"]
        body = {"messages": TALK, "temperature": 0, "max_tokens": 12}
        text = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        many = {"conversations": [TALK, TALK[1:2]], "temperature": 0, "max_tokens": 12, "seeds": [1, 2]}
        rows = http.post("/v1/batch/chat", json=many).json()["results"]
    turn_end = {"llama3": "<|eot_id|>", "gemma3": "<end_of_turn>"}.get(name, kind.eos)
    ends = sorted({own.eos_token_id, own.convert_tokens_to_ids(turn_end)})
    assert card["end_token_ids"] == ends and card["max_model_len"] == 512

    def answer(talk: list[dict[str, str]], **thinks: bool) -> list[int]:
        ids = own.apply_chat_template(
            talk, add_generation_prompt=True, return_tensors="pt", return_dict=True, **thinks
        )
        out = model.generate(**ids, do_sample=False, max_new_tokens=12, eos_token_id=ends)
        return list(out[0, ids["input_ids"].shape[1] :].tolist())

    assert text == own.decode(answer(TALK), skip_special_tokens=True)
    assert [row["token_ids"] for row in rows] == [
        answer(talk, enable_thinking=False) for talk in (TALK, TALK[1:2])
    ]


@pytest.mark.parametrize("kind", [Q.F16, Q.BF16, Q.Q8_0, Q.Q5_1, Q.Q4_1, Q.Q4_0], ids=lambda kind: kind.name)
def test_quantized_weights_become_the_numbers_that_they_stand_for(
    kind: Any, published: dict[str, Published], tmp_path: Path
) -> None:
    path = write(published["qwen3"], tmp_path / "tiny.gguf", type=kind)
    convert(path, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    own = published["qwen3"].model.model.layers[0].mlp.up_proj.weight.detach()
    stored = gguf.quants.quantize(own.numpy(), kind)
    expected = torch.from_numpy(gguf.quants.dequantize(stored, kind).copy())
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.dtype is (torch.bfloat16 if kind is Q.BF16 else torch.float32)
    assert torch.equal(weight.detach().float(), expected)
    assert f"{kind.name}: 15 tensors" in read_record(tmp_path / "out")["quantization"]


def test_the_card_says_which_file_it_came_from(made: Callable[[str], Path]) -> None:
    directory, file = made("qwen3"), made("qwen3").with_suffix(".gguf")
    check_model_dir(directory)
    record, card = read_record(directory), (directory / "README.md").read_text()
    assert record["sha256"] == sha256_of(file) and record["file"] == "qwen3.gguf"
    assert all(value in card for value in (record["sha256"], "qwen3.gguf", "F32: 24 tensors", "apache-2.0"))


def test_large_weights_are_written_in_shards(
    published: dict[str, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_gguf, "SHARD_BYTES", 100_000)
    convert(write(published["qwen2"], tmp_path / "tiny.gguf"), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, parameter in published["qwen2"].model.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)


def test_what_the_file_says_of_sampling_becomes_the_models_default(
    published: dict[str, Published], tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    def settings(writer: Any) -> None:
        writer.add_float32("general.sampling.temp", 0.6)
        writer.add_float32("general.sampling.top_p", 0.95)
        writer.add_int32("general.sampling.top_k", 20)

    convert(write(published["smollm2"], tmp_path / "tiny.gguf", settings), tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (saved["temperature"], saved["top_p"], saved["top_k"]) == (0.6, 0.95, 20)
    body = {"messages": TALK, "max_tokens": 12, "seed": 7}
    with start_server("--model", str(tmp_path / "out")).http() as http:

        def answer(**more: float) -> str:
            return str(http.post("/v1/chat/completions", json={**body, **more}).json()["choices"][0])

        assert answer() == answer(temperature=0.6, top_p=0.95) != answer(temperature=1.0, top_p=1.0)


def refused(path: Path, error: type[NightschoolError], code: int, *words: str) -> None:
    """The file is refused in one line, and nothing is left of an attempt."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(error) as raised:
        convert(path, path.parent / "out")
    message = str(raised.value)
    assert all(word in message for word in words) and "\n" not in message
    assert raised.value.exit_code == code and type(raised.value) is error
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.6, 0.999])
def test_a_file_that_is_cut_short_is_refused(
    share: float, published: dict[str, Published], tmp_path: Path
) -> None:
    path = write(published["llama3"], tmp_path / "tiny.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, IntegrityFault, 12, "cut short", "download it again")


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 and more", b"{}"])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(content)
    refused(tmp_path / "tiny.gguf", IntegrityFault, 12, "is not a GGUF file")


def test_a_family_that_is_not_known_is_refused(published: dict[str, Published], tmp_path: Path) -> None:
    path = write(published["qwen2"], tmp_path / "tiny.gguf", arch="rwkv7")
    refused(path, ConfigError, 2, "'rwkv7'", "gemma3")


def test_a_mixture_of_experts_is_refused(published: dict[str, Published], tmp_path: Path) -> None:
    path = write(published["smollm2"], tmp_path / "tiny.gguf", lambda writer: writer.add_expert_count(8))
    refused(path, ConfigError, 2, "with experts")


def test_a_quantization_type_that_is_not_known_is_refused(
    published: dict[str, Published], tmp_path: Path
) -> None:
    path = write(published["qwen2"], tmp_path / "tiny.gguf")
    name = b"blk.0.ffn_up.weight"
    raw = bytearray(path.read_bytes())
    place = raw.index(name) + len(name) + 4 + 2 * 8
    raw[place : place + 4] = (999).to_bytes(4, "little")
    path.write_bytes(raw)
    refused(path, ConfigError, 2, "quantization type", "999")


def test_a_type_that_cannot_be_dequantized_is_refused(
    published: dict[str, Published], tmp_path: Path
) -> None:
    path = write(published["qwen2"], tmp_path / "tiny.gguf")
    name = b"blk.0.attn_norm.weight"
    raw = bytearray(path.read_bytes())
    place = raw.index(name) + len(name) + 4 + 8
    raw[place : place + 4] = int(Q.I32).to_bytes(4, "little")
    path.write_bytes(raw)
    refused(path, ConfigError, 2, "I32", "another quantization")


def test_a_tokenizer_without_a_chat_template_is_refused(
    published: dict[str, Published], tmp_path: Path
) -> None:
    refused(
        write(published["qwen2"], tmp_path / "tiny.gguf", template=""), ConfigError, 2, "no chat template"
    )


def test_a_way_to_split_text_that_is_not_known_is_refused(
    published: dict[str, Published], tmp_path: Path
) -> None:
    refused(
        write(published["qwen2"], tmp_path / "tiny.gguf", pre="mystery"),
        ConfigError,
        2,
        "'mystery'",
        "smollm",
    )


def test_a_weight_that_the_family_does_not_have_is_refused(
    published: dict[str, Published], tmp_path: Path
) -> None:
    import numpy as np

    extra = np.zeros((4, 4), dtype=np.float32)
    path = write(
        published["qwen2"],
        tmp_path / "tiny.gguf",
        lambda writer: writer.add_tensor("blk.0.router.weight", extra),
    )
    refused(path, ConfigError, 2, "blk.0.router.weight")


def test_numbers_that_are_not_finite_are_refused(published: dict[str, Published], tmp_path: Path) -> None:
    import numpy as np

    path = write(published["qwen2"], tmp_path / "tiny.gguf")
    reader = gguf.GGUFReader(path, "r+")
    tensor = next(each for each in reader.tensors if each.name == "blk.1.attn_norm.weight")
    tensor.data[3] = np.nan
    reader.data.flush()
    refused(path, IntegrityFault, 12, "blk.1.attn_norm.weight", "not finite")


def test_without_the_package_the_error_names_the_extra(
    published: dict[str, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(published["qwen2"], tmp_path / "tiny.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    refused(path, ConfigError, 2, "nightschool[real]", "pip install")
