"""Deltas against a whole copy, 4 KiB blocks and XOR with zstd: size, time to write, time to undo.

    python -m bench.checkpoints [--size 512] [--steps 1 8 50 200] [--repeats 5] [--folder DIR] [--json]

First a blob of bfloat16 weights of which a share was changed by one unit up or down, at random places. Each
way writes a file and fsyncs it, with two threads but for the whole copy, and from that file undoes the
change in memory; the goals are shares of the time in which a whole copy is written. A delta checks its
file, and each chunk that it starts from and that comes out, as the store does; its rivals check nothing.
The hashes of the base are kept with it, and not part of the time.

Then weights after real steps of Apollo with stochastic rounding, against those they started from: of the
embedded model, which is trained, and of a fresh Qwen3 of 50M parameters (standard deviation 0.02), whose
small weights change so often that no coding of element by element reaches the goals: `bound` is what places
and changes hold at least (their entropy, each element by itself), so for it there are no goals, and no more
than 8 steps. Both on the world's conversations. --steps 0 leaves them out, --size 0 the first part.
"""

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import zstandard

from agents.trainer.apollo.optimizer import Apollo
from bench import _table
from bench._table import Goal
from bench.rounding import embedded_model, losses
from store.checkpoints.delta.encode import ChunkHashes, Delta, chunk_hashes, encode
from store.checkpoints.delta.format import CHUNK
from store.tensors.numbers import Array
from store.tensors.raw import RawTensor

SHARES = (0.002, 0.01, 0.05, 0.25)
RATES = {1e-5: 20, 1e-6: 70, 5e-7: 110}
"""Learning rates, and how many times smaller than the whole one step must be."""
BLOCK = 4096
BASE = "0" * 64


class Way(NamedTuple):
    """One way of storing a change."""

    write: Callable[[Path], object]
    undo: Callable[[], object]
    """In the live weights, from that file."""
    redo: Callable[[], object]


def main() -> int:
    """Print the tables; return 1 when a goal is missed."""
    parser = _table.parser(__doc__)
    parser.add_argument("--size", type=int, default=512, help="MiB of weights")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[1, 8, 50, 200], help="after which to look; 0: none"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="where to write, on a disk; default: the temporary folder"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"size_mib": options.size}
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for share in SHARES if options.size else ():
            goals += _measure(share, Path(folder), options, result)
    for name, make in (
        {"embedded": embedded_model, "fresh": _fresh_model}.items() if max(options.steps) else ()
    ):
        for rate, limit in RATES.items():
            shrunk = _stepped(make(), rate, [n for n in options.steps if name == "embedded" or n <= 8])
            result[f"{name} {rate:g}"] = shrunk
            heads = ["steps", "changed", "delta", "bound", "4 KiB blocks", "XOR + zstd"]
            _table.show(f"{name}, lr {rate:g}: times smaller", heads, [list(row.values()) for row in shrunk])
            if 1 in options.steps and name == "embedded":
                factor = shrunk[options.steps.index(1)]["delta"]
                title = f"{name}, lr {rate:g}, one step: times smaller"
                goals.append(Goal(name=title, found=factor, limit=limit, at_least=True))
    return _table.finish(result, goals, as_json=options.json)


def _measure(share: float, folder: Path, options: Any, result: dict[str, Any]) -> list[Goal]:
    """Print one table; return its goals."""
    base, new = changed(options.size << 20, share)
    files = {name: folder / name for name in ("delta", "blocks", "XOR", "whole")}
    with ThreadPoolExecutor(options.threads) as pool:
        ways = _ways(base, new, files, pool, options.threads)
        writes = {name: partial(way.write, files[name]) for name, way in ways.items()}
        written = _table.interleaved(writes, repeats=options.repeats)
        # In this order the live weights are the new ones before each undo, and the base's before each redo.
        turns = {
            f"{name} {turn}": getattr(way, turn) for name, way in ways.items() for turn in ("undo", "redo")
        }
        turned = _table.interleaved(turns, repeats=options.repeats)
    rows = []
    for name in ways:
        factor = base.nbytes / files[name].stat().st_size
        times = [written[name], turned[f"{name} undo"], turned[f"{name} redo"]]
        rows.append([name, factor, *(figure for t in times for figure in (t.wall_ms, t.cpu_ms))])
    heads = ["", "times smaller", "write ms", "CPU", "undo ms", "CPU", "redo ms", "CPU"]
    _table.show(f"{options.size} MiB of bfloat16, {share:.1%} changed", heads, rows)
    result[f"{share:g}"] = {row[0]: row[1:] for row in rows}
    for path in files.values():
        path.unlink()
    copy, delta = written["whole"].wall_ms, written["delta"].wall_ms
    undo, title = turned["delta undo"].wall_ms, f"{share:.1%} changed"
    limits = {0.002: 0.5, 0.01: 0.7}
    goals = []
    if share in limits:
        goals.append(Goal(name=f"{title}: write / whole copy", found=delta / copy, limit=limits[share]))
        goals.append(Goal(name=f"{title}: undo / whole copy", found=undo / copy, limit=0.25))
    if share == 0.002:
        goals.append(
            Goal(name=f"{title}: write / blocks", found=delta / written["blocks"].wall_ms, limit=0.25)
        )
    return goals


def changed(nbytes: int, share: float) -> tuple[Array, Array]:
    """Return weights as patterns of bits, and the same with this share of them one unit up or down."""
    draw = np.random.default_rng(0)
    base, new = (np.empty(nbytes // 2, np.uint16) for _ in range(2))
    for start in range(0, len(base), CHUNK):
        part = base[start : start + CHUNK]
        part[:] = (0.02 * draw.standard_normal(len(part), np.float32)).view(np.uint16)[1::2]
        units = draw.integers(0, 2, len(part), np.uint16) * 2 - 1
        units[draw.random(len(part), np.float32) >= share] = 0
        new[start : start + CHUNK] = part + units
    return base, new


def _ways(
    base: Array, new: Array, files: Mapping[str, Path], pool: ThreadPoolExecutor, threads: int
) -> dict[str, Way]:
    """Return all ways that are compared."""
    live = new.copy()
    return {
        "delta": _delta(base, new, live, files["delta"], threads),
        "blocks": _blocks(base, new, live, files["blocks"], pool),
        "XOR": _xor(base, new, live, files["XOR"], pool),
        "whole": _whole(base, new, live),
    }


def _delta(base: Array, new: Array, live: Array, path: Path, threads: int) -> Way:
    old, now = _tensors(base), _tensors(new)
    prints = chunk_hashes(old)
    digest = ""

    def write(to: Path) -> None:
        nonlocal digest
        with to.open("wb") as file:
            digest = encode(
                old, now, file, base_sha256=BASE, new_sha256=BASE, base_hashes=prints, threads=threads
            ).sha256
            _durable(file)

    def read() -> Delta:
        return Delta(path.read_bytes(), digest, threads=threads)

    return Way(
        write,
        lambda: read().undo(_tensors(live), piecewise=True),
        lambda: read().redo(_tensors(live), piecewise=True),
    )


def _blocks(base: Array, new: Array, live: Array, path: Path, pool: ThreadPoolExecutor) -> Way:
    """Store the blocks that differ, with their numbers; undo them by the base's blocks."""

    def touched(start: int) -> Array:
        one, other = (
            _words(array)[start // 8 : (start + CHUNK) // 8].reshape(-1, BLOCK // 8) for array in (base, new)
        )
        return np.flatnonzero((one != other).any(axis=1)) + start // BLOCK

    def write(to: Path) -> None:
        numbers = np.concatenate(list(pool.map(touched, range(0, base.nbytes, CHUNK)))).astype(np.uint32)
        with to.open("wb") as file:
            file.write(len(numbers).to_bytes(8, "little") + numbers.tobytes())
            for start in range(0, len(numbers), CHUNK // BLOCK):
                file.write(_words(new).reshape(-1, BLOCK // 8)[numbers[start : start + CHUNK // BLOCK]].data)
            _durable(file)

    def numbers() -> Array:
        with path.open("rb") as file:
            return np.frombuffer(file.read(4 * int.from_bytes(file.read(8), "little")), np.uint32)

    def put(source: Array) -> None:
        def some(part: Array) -> None:
            _words(live).reshape(-1, BLOCK // 8)[part] = _words(source).reshape(-1, BLOCK // 8)[part]

        which = numbers()
        list(pool.map(some, np.array_split(which, max(1, len(which) * BLOCK // CHUNK))))

    return Way(write, lambda: put(base), lambda: put(new))


def _xor(base: Array, new: Array, live: Array, path: Path, pool: ThreadPoolExecutor) -> Way:
    def packed(start: int) -> bytes:
        one, other = (array[start // 2 : (start + CHUNK) // 2] for array in (base, new))
        return zstandard.ZstdCompressor(level=1).compress((one ^ other).data)

    def write(to: Path) -> None:
        with to.open("wb") as file:
            for frame in pool.map(packed, range(0, base.nbytes, CHUNK)):
                file.write(len(frame).to_bytes(8, "little") + frame)
            _durable(file)

    def frames() -> Iterator[bytes]:
        with path.open("rb") as file:
            while length := file.read(8):
                yield file.read(int.from_bytes(length, "little"))

    def turn(start: int, frame: bytes) -> None:
        part = live[start // 2 : (start + CHUNK) // 2]
        part ^= np.frombuffer(zstandard.ZstdDecompressor().decompress(frame), np.uint16)

    def turned() -> None:
        list(pool.map(turn, range(0, live.nbytes, CHUNK), frames()))

    return Way(write, turned, turned)


def _whole(base: Array, new: Array, live: Array) -> Way:
    """Store a copy; undo it by copying from memory, since no file is read faster."""

    def write(to: Path) -> None:
        with to.open("wb") as file:
            file.write(new.data)
            _durable(file)

    return Way(write, lambda: np.copyto(live, base), lambda: np.copyto(live, new))


def _stepped(model: Any, rate: float, steps: list[int]) -> list[dict[str, float]]:
    """Return how many times smaller each way is after so many steps; `changed` weights differ."""
    stream = losses(model)
    model = model.to(torch.bfloat16)
    optimizer = Apollo(model.parameters(), rate)
    start = {name: _raw(weight.detach().clone()) for name, weight in model.named_parameters()}
    hashes, rows = chunk_hashes(start), []
    for step in range(1, max(steps) + 1):
        optimizer.zero_grad()
        next(stream).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in steps:
            now = {name: _raw(weight.detach()) for name, weight in model.named_parameters()}
            rows.append({"steps": step, **_sizes(start, now, hashes)})
    return rows


def _sizes(
    start: Mapping[str, RawTensor], now: Mapping[str, RawTensor], hashes: ChunkHashes
) -> dict[str, float]:
    written = encode(start, now, io.BytesIO(), base_sha256=BASE, new_sha256=BASE, base_hashes=hashes)
    whole = sum(len(tensor.data) for tensor in now.values())
    one, other = (
        np.frombuffer(b"".join(tensor.data for tensor in those.values()), np.uint8) for those in (start, now)
    )
    xor = len(zstandard.ZstdCompressor(level=1).compress((one ^ other).data))
    touched = (np.pad(one ^ other, (0, -whole % BLOCK)).reshape(-1, BLOCK) != 0).any(axis=1).mean()
    bound = _bound(one.view(np.int16), other.view(np.int16))
    shares = written.changed / (whole / 2), whole / written.nbytes, bound, 1 / float(touched), whole / xor
    return dict(zip(("changed", "delta", "bound", "blocks", "XOR"), shares, strict=True))


def _bound(before: Array, after: Array) -> float:
    """Return the bound on the factor: 16 bits over the entropy of an element's difference (Shannon 1948)."""
    counts = np.bincount((after - before).view(np.uint16))
    shares = counts[counts > 0] / len(before)
    return 16 / float(-(shares * np.log2(shares)).sum())


def _fresh_model() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 640,
        "intermediate_size": 1920,
        "num_hidden_layers": 10,
        "initializer_range": 0.02,
    }
    heads = {"num_attention_heads": 10, "num_key_value_heads": 5, "head_dim": 64}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=1024, tie_word_embeddings=True, **sizes, **heads))


def _raw(weight: torch.Tensor) -> RawTensor:
    """Return the weight's own bytes."""
    data = weight.contiguous().view(torch.int16).numpy().reshape(-1).data.cast("B")
    return RawTensor(dtype="BF16", shape=tuple(weight.shape), data=data)


def _tensors(array: Array) -> dict[str, RawTensor]:
    return {"weights": RawTensor(dtype="BF16", shape=array.shape, data=array.data.cast("B"))}


def _words(array: Array) -> Array:
    return array.view(np.uint64)


def _durable(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


if __name__ == "__main__":
    sys.exit(main())
