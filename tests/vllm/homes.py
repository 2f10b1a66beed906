"""Homes with short nights for a model that vLLM serves, and vLLM's answer to a prompt."""

import sys
import threading
from pathlib import Path
from typing import Any

import httpx
from conftest import Vllm

sys.path.append(str(Path(__file__).parent.parent / "loop"))

from small import SMALL, cli_json, correction_lines, run_cli  # found by the line above

from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.header import Header
from store.home import Home

SEATS = ("--max-num-seqs", "128")
"""Our batches take half of the engine's seats: with 16, as in the other tests, a night takes much longer."""
ASKED = {
    "messages": [{"role": "user", "content": "I have decided to paint the door. Please buy the paint."}],
    "max_tokens": 8,
    "temperature": 0,
    "logprobs": True,
    "ignore_eos": True,
}


def vllm_home(place: Path, url: str, *, trains: bool | None, windows: str = "[]") -> Home:
    """Return a home with a log of one lesson, pointed at the vLLM afterwards, as a user would do it."""
    assert run_cli(place, "init").code == 0
    configure(Home(place), url, trains=trains, windows=windows)
    log = place.parent / f"{place.name}.jsonl"
    log.write_text("".join(f"{line}\n" for line in correction_lines("decision", 8)))
    cli_json(place, "ingest", log)
    return Home(place)


def configure(home: Home, url: str, *, trains: bool | None, windows: str = "[]") -> None:
    """Write the configuration of a small home; without windows its nights start by hand only."""
    # Answers of a vLLM turn by chance, and 32 scenarios then cannot always exclude a fall of 30 points.
    text = SMALL.format(windows=windows).replace("margin = 0.3", "margin = 0.6")
    if trains is not None:
        text = text.replace("[training]\n", f"[training]\nenabled = {str(trains).lower()}\n")
    home.config_file.write_text(f'{text}\n[model]\nurl = "{url}"\n')


def logprobs(vllm: Vllm) -> list[tuple[str, float]]:
    """Return vLLM's answer to a user who calls it directly, with the log-probability of each token."""
    with vllm.http() as http:
        answer: Any = http.post("/v1/chat/completions", json=ASKED).json()
    return [(one["token"], one["logprob"]) for one in answer["choices"][0]["logprobs"]["content"]]


def held(vllm: Vllm) -> tuple[str, bool]:
    """Return the checkpoint that the shared weights hold, and whether an update may be in them."""
    state = Header(ServedDirectory(vllm.home.served_dir).weights_file).state
    return state.holds, state.dirty


class Asking:
    """A user who sends vLLM one question after the other, until the block ends."""

    def __init__(self, vllm: Vllm) -> None:
        self._vllm = vllm
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.answers: list[int] = []
        """Status of each answer; 0 for none."""

    def _ask(self) -> None:
        with self._vllm.http() as http:
            while not self._stop.wait(0.2):
                try:
                    self.answers.append(http.post("/v1/chat/completions", json=ASKED).status_code)
                except httpx.HTTPError:
                    self.answers.append(0)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
