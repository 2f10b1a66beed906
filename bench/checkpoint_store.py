"""The cost of a night's checkpoint and of a rollback in the store: time, disk and memory, digests included.

    python -m bench.checkpoint_store [--size 512] [--shares 0.002 0.01 0.05] [--repeats 5] [--folder DIR]
    [--json]

bfloat16 weights of which a share was changed, as in `bench.checkpoints`. `write` hashes the whole (SHA-256,
which names it), codes the change and makes it durable; `whole` is the same for a checkpoint that is stored
whole. A rollback in place undoes the change in the live weights; from the files it writes all of them.
`verify` decodes and hashes all. Extra memory is the most that a write, or a rollback, held at once, as
tracemalloc counts it, in a run of its own.
"""

import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import _table
from bench.checkpoints import changed
from store.checkpoints.blobs import Blobs
from store.tensors.numbers import Array
from store.tensors.raw import RawTensor

TENSORS = 16


def main() -> int:
    """Print the table."""
    parser = _table.parser(__doc__)
    parser.add_argument("--size", type=int, default=512, help="MiB of weights")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.002, 0.01, 0.05], help="that changed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="where to write, on a disk; default: the temporary folder"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, result = [], {}
    for share in options.shares:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            row = _measure(share, Blobs(Path(folder)), options)
        rows.append([f"{share:.1%}", *row.values()])
        result[f"{share:g}"] = row
    heads = ["changed", "times smaller", *(f"{name} ms" for name in WAYS), "extra MiB, write", "rollback"]
    _table.show(f"{options.size} MiB of bfloat16 in the store", heads, rows)
    return _table.finish(result, [], as_json=options.json)


WAYS = ("write", "whole", "rollback in place", "rollback from files", "verify")


def _measure(share: float, blobs: Blobs, options: Any) -> dict[str, float]:
    """Return one row."""
    base, new = (_tensors(array) for array in changed(options.size << 20, share))
    first = blobs.write(base)[0]
    second = blobs.write(new, near=first)[0]
    times_smaller = sum(len(raw.data) for raw in new.values()) / blobs.stored(second).nbytes
    live = _tensors(np.concatenate([np.frombuffer(raw.data, np.uint16) for raw in new.values()]))

    def nothing() -> None:
        pass

    def write() -> None:
        blobs.path(second).unlink()
        blobs.write(new, near=first)

    def whole() -> None:
        elsewhere = Blobs(blobs.folder / "whole")
        elsewhere.path(elsewhere.write(new, whole=True)[0]).unlink()

    def undo() -> None:
        blobs.put(first, live, nothing, held=second)

    def put() -> None:
        blobs.put(second, live, nothing)

    def verify() -> None:
        assert blobs.problem(second) is None

    runs = dict(zip(WAYS, (write, whole, undo, put, verify), strict=True))
    timed = _table.interleaved(runs, repeats=options.repeats)
    extra = {f"extra {name}": _peak(run) for name, run in (("write", write), ("rollback", undo))}
    return {"times smaller": times_smaller, **{name: t.wall_ms for name, t in timed.items()}, **extra}


def _peak(run: Callable[[], None]) -> float:
    """Return the largest number of MiB allocated at once, above those before."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / (1 << 20)


def _tensors(array: Array) -> dict[str, RawTensor]:
    parts = np.split(array, TENSORS)
    return {
        f"{n:02}": RawTensor(dtype="BF16", shape=part.shape, data=part.data.cast("B"))
        for n, part in enumerate(parts)
    }


if __name__ == "__main__":
    sys.exit(main())
