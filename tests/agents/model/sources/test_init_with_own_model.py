"""`init --model` with a GGUF file and with a name on the hub: a whole home, or no home at all."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
import transformers

from agents.model.embedded.chat import ChatTokenizer
from agents.model.sources.card import read_record
from agents.model.sources.installed import PACKAGE
from corpus.errors import ConfigError, NightschoolError, UnsafeModel, UsageError
from loop.config import load_settings
from loop.engine.model_identity import behaviours_of
from loop.operations.init import init
from loop.operations.status import ledger_of
from store import queries
from store.home import Home

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RUN = "import sys; from loop.cli.app import main; sys.argv[0] = 'nightschool'; main()"


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny GGUF file of a kind."""
    pytest.importorskip("gguf")
    import gguf_models

    place = tmp_path_factory.mktemp("files")

    def file(name: str) -> Path:
        path = place / f"{name}.gguf"
        return (
            path if path.exists() else gguf_models.write(gguf_models.publish(gguf_models.KINDS[name]), path)
        )

    return file


def make(home: Path, model: object) -> str:
    """Run `init`; returns the id of checkpoint 0."""
    return anyio.run(partial(init, home, demo=False, model=str(model))).checkpoint


def refused(home: Path, model: object, error: type[NightschoolError], words: str) -> None:
    """`init` ends with one line, and there is no home afterwards."""
    with pytest.raises(error, match=words) as raised:
        make(home, model)
    assert "\n" not in str(raised.value) and not home.exists()


def test_a_gguf_file_gives_a_home_once(gguf_file: Callable[[str], Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    checkpoint = make(home, gguf_file("llama3"))
    assert load_settings(home / "config.toml").model.path == str(home / "model")
    assert read_record(home / "model")["file"] == "llama3.gguf"
    assert not list(home.glob("*.partial")) and not list(home.glob(".*"))
    before = (home / "model" / "model.safetensors").stat()
    assert make(home, gguf_file("llama3")) == checkpoint
    assert (home / "model" / "model.safetensors").stat() == before


def test_a_home_of_another_model_samples_as_people_do_and_has_no_behaviours_of_the_shipped_world(
    gguf_file: Callable[[str], Path], tmp_path: Path
) -> None:
    make(tmp_path / "home", gguf_file("llama3"))
    settings = load_settings(tmp_path / "home" / "config.toml")
    assert settings.pairs.temperature == 0.7 and settings.verdict.scenarios == 104
    found = Home(tmp_path / "home")
    with ledger_of(found) as connection:
        assert behaviours_of(found, queries.model_digest(connection)) == {}


def test_another_gguf_file_is_refused_and_the_home_stays(
    gguf_file: Callable[[str], Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    checkpoint = make(home, gguf_file("llama3"))
    with pytest.raises(UsageError, match=r"made from llama3\.gguf"):
        make(home, gguf_file("qwen2"))
    assert make(home, home / "model") == checkpoint


def test_an_init_that_was_killed_is_begun_anew(gguf_file: Callable[[str], Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".model.partial").mkdir(parents=True)
    (home / ".model.partial" / "model.safetensors").write_text("half")
    make(home, gguf_file("qwen2"))
    assert not (home / ".model.partial").exists()
    # Killed after the model was made and before the home had its configuration.
    (home / "config.toml").unlink()
    (home / "ledger.db").unlink()
    shutil.rmtree(home / "checkpoints")
    make(home, gguf_file("llama3"))
    assert read_record(home / "model")["file"] == "llama3.gguf"


def test_a_gguf_file_that_cannot_be_used_leaves_no_home(
    gguf_file: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    whole = gguf_file("qwen2").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "home", broken, NightschoolError, "cut short")


def test_a_directory_that_is_no_model_for_conversations_leaves_no_home(
    model_dir: Path, tmp_path: Path
) -> None:
    place = tmp_path / "m"
    place.mkdir()
    for file in model_dir.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    (place / "chat_template.jinja").unlink()
    refused(tmp_path / "home", place, ConfigError, "without a chat template")
    (place / "code.py").write_text("")
    refused(tmp_path / "home", place, UnsafeModel, "Python code")


class Hub(BaseHTTPRequestHandler):
    """The few requests of a hub's that a download makes; `files` are one model's."""

    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        parts = self.path.partition("?")[0].split("/")
        if self.path.startswith("/api/models/org/"):
            if parts[4] != "tiny":
                self._send(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
            elif parts[6] not in ("main", COMMIT):
                self._send(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
            else:
                listed = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
                info = {"id": "org/tiny", "sha": COMMIT, "siblings": listed, "cardData": {"license": "mit"}}
                self._send(200, json.dumps(info).encode())
        elif parts[:5] == ["", "org", "tiny", "resolve", COMMIT]:
            data = self.files[parts[5]]
            self._send(200, data, ETag=f'"{len(data)}-{parts[5]}"', **{"X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"")

    do_HEAD = do_GET

    def _send(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture
def hub(model_dir: Path) -> Iterator[type[Hub]]:
    """A hub on this machine with one model, `org/tiny`."""
    files = {file.name: file.read_bytes() for file in model_dir.iterdir()}
    files |= {
        "modeling_tiny.py": b"raise SystemExit",
        "pytorch_model.bin": b"\x80\x02",
        "README.md": b"theirs",
    }
    handler = type("OneHub", (Hub,), {"files": files, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        handler.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
        yield handler
        server.shutdown()
        thread.join()


def command(home: Path, *words: str, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program with a hub at this address."""
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home.parent / "hf"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", RUN, "--home", str(home), *words],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def asked_here(hub: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The hub, asked by this process."""
    import huggingface_hub
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    yield hub
    huggingface_hub.close_session()


def test_a_model_on_the_hub_is_pinned_and_only_its_data_is_downloaded(
    hub: Any, model_dir: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    made = command(home, "init", "--model", "org/tiny", url=hub.url)
    assert made.returncode == 0, made.stderr
    names = {file.name for file in (home / "model").iterdir()}
    assert names == {file.name for file in model_dir.iterdir()} | {"README.md", "source.json"}
    assert (home / "model" / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    record = read_record(home / "model")
    assert record == {"kind": "hub", "name": "org/tiny", "asked for": "main", "revision": COMMIT}
    assert COMMIT in (home / "model" / "README.md").read_text()
    assert not any(".py" in path or ".bin" in path for path in hub.asked)
    hub.asked.clear()
    again = command(home, "init", "--model", "org/tiny", url=hub.url)
    assert again.returncode == 0 and again.stdout == made.stdout and not hub.asked


@pytest.mark.parametrize(
    ("name", "environment", "code", "words"),
    [
        ("org/tiny", {"HF_HUB_OFFLINE": "1"}, 13, "init --model DIR"),
        ("org/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, 13, "try again with a network"),
    ],
)
def test_a_model_that_cannot_be_downloaded_is_one_line_and_no_home(
    name: str, environment: dict[str, str], code: int, words: str, hub: Any, tmp_path: Path
) -> None:
    ran = command(tmp_path / "home", "init", "--model", name, url=hub.url, **environment)
    assert ran.returncode == code and words in ran.stderr and ran.stderr.strip().count("\n") == 0, ran.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("org/other", "no directory org/other here and no model"), ("org/tiny@v9", "no revision 'v9'")],
)
def test_a_model_that_the_hub_does_not_have_is_one_line_and_no_home(
    name: str, words: str, asked_here: Any, tmp_path: Path
) -> None:
    refused(tmp_path / "home", name, ConfigError, words)


def test_a_model_that_brings_code_is_refused_before_its_weights_are_downloaded(
    asked_here: Any, tmp_path: Path
) -> None:
    config = json.loads(asked_here.files["config.json"])
    config["auto_map"] = {"AutoModel": "modeling_tiny.T"}
    asked_here.files["config.json"] = json.dumps(config).encode()
    refused(tmp_path / "home", "org/tiny", UnsafeModel, "auto_map")
    assert not any("safetensors" in path for path in asked_here.asked)


def test_a_model_without_safetensors_is_refused(asked_here: Any, tmp_path: Path) -> None:
    del asked_here.files["model.safetensors"]
    refused(tmp_path / "home", "org/tiny", ConfigError, "no safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "sub/model.safetensors", "missing.safetensors"])
def test_an_index_that_names_anything_but_safetensors_is_refused(
    name: str, asked_here: Any, tmp_path: Path
) -> None:
    asked_here.files["sub/model.safetensors"] = b""
    index = {"weight_map": {"lm_head.weight": name}}
    asked_here.files["model.safetensors.index.json"] = json.dumps(index).encode()
    refused(tmp_path / "home", "org/tiny", ConfigError, "no safetensors")
    assert not any(".bin" in path for path in asked_here.asked)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model, where its package is installed; in the cache that SMOLLM2_TEST_CACHE may name."""
    pytest.importorskip("gguf")
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed")
    cache = os.environ.get("SMOLLM2_TEST_CACHE")
    place = (Path(cache) if cache else tmp_path_factory.mktemp("real")) / "smollm2"
    ran = subprocess.run(
        [sys.executable, "-c", RUN, "model", "smollm2", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0 and str(place) in ran.stdout, ran.stderr
    return place


@pytest.mark.slow
def test_the_real_smollm2_has_its_own_tokens(smollm2: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    chat = ChatTokenizer(tokenizer)
    # As its makers' own tokenizer cuts them: each digit by itself, and runs of spaces whole before one.
    assert tokenizer.encode("Hello 1234  5") == [19556, 216, 33, 34, 35, 36, 256, 37]
    for talk in (
        [{"role": "user", "content": "What is 12 + 34?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "naïve 🙂"}],
    ):
        expected = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        assert chat.encode_chat(talk) == expected
    assert chat.turn_end == tokenizer.eos_token_id == 2
    whole = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_dict=False)
    opened = chat.encode_chat([], role="user")
    assert whole[: len(opened)] == opened and chat.decode(opened).endswith("\nuser\n")


@pytest.mark.slow
def test_the_real_smollm2_is_served_and_answers(smollm2: Path, start_server: Callable[..., Any]) -> None:
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    with start_server("--model", str(smollm2)).http() as http:
        body = {"messages": asked, "temperature": 0, "max_tokens": 24}
        choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert "Paris" in choice["message"]["content"] and choice["finish_reason"] == "stop"
