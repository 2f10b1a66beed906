"""A tiny random model, and real server processes around it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TOKEN = "a-token-that-is-long-enough-to-pass"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SENTENCES = ["a user asks and the assistant answers", "system", "how are you today? 0 1 2 3 4 5 6 7 8 9"]

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a Qwen3 with two layers of random weights, its tokenizer and its chat template."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    wrapped.add_special_tokens({"additional_special_tokens": CONTROL[1:2]})
    wrapped.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
    )
    model = transformers.Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Sharper than at the start of training, so that answers differ from each other.
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(path)
    wrapped.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def model(model_dir: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(model_dir).eval()


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(model_dir)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server process."""

    process: subprocess.Popen[bytes]
    run_dir: Path

    @property
    def socket(self) -> Path:
        return self.run_dir / "model.sock"

    def http(self, **headers: str) -> httpx.Client:
        """Return a client with these headers and the right token, unless another is given."""
        given = {"Authorization": f"Bearer {TOKEN}"} | headers
        transport = httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(transport=transport, base_url="http://nightschool", headers=given, timeout=60)


Start = Callable[..., Running]


@pytest.fixture(scope="session")
def start_server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start servers, wait until each is ready, and end them after the tests."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*more: str) -> Running:
        run_dir = tmp_path_factory.mktemp("r")
        (run_dir / "token").write_text(TOKEN)
        ours, theirs = os.pipe()
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "agents.model.embedded.server",
            "--run-dir",
            str(run_dir),
        ]
        command += ["--model", str(model_dir), "--token-file", str(run_dir / "token")]
        command += ["--ready-fd", str(theirs), "--parent-pid", str(os.getpid()), *more]
        with (run_dir / "out").open("wb") as out, (run_dir / "err").open("wb") as err:
            process = subprocess.Popen(command, pass_fds=[theirs], stdout=out, stderr=err)
        processes.append(process)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            assert pipe.read() == b"ready\n", (run_dir / "err").read_text()
        return Running(process=process, run_dir=run_dir)

    yield start
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(10)


@pytest.fixture(scope="session")
def server(start_server: Start) -> Running:
    """Start the server of all tests that leave it unchanged."""
    return start_server()
