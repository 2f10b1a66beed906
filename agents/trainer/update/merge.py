"""Runs a merge: adds task vectors to the parent's weights, in the shared weights.

Invariant: all merged weights are computed and known to be finite before the first is written; then all are
written under one lock. The result depends on the parent and the parts alone. After any failure the shared
weights are the parent's. A merge has no optimizer state, because the moments of earlier updates do not fit
the merged weights. This module knows nothing about the socket or the ledger.
"""

from collections.abc import Callable, Sequence

import numpy as np

from agents.model.weights.snapshot import from_raw, restore, to_raw, unique_entries
from agents.trainer.update.training import TrainerContext
from corpus.errors import IntegrityFault
from store.task_vectors.arithmetic import ChangeSize, Ends, Part, added, changes, size_of, values


def run_merge(
    context: TrainerContext,
    parent: str,
    parts: Sequence[Part],
    method: str,
    density: float,
    check: Callable[[], None],
) -> ChangeSize:
    """Write the parent's weights plus the parts into the shared weights; return the size of the change.

    Args:
        context: The shared weights, their model, and the checkpoints.
        parent: Id of the parent checkpoint.
        parts: The task vectors, each with its weight.
        method: "arithmetic" or "ties".
        density: Share of each task vector's elements that "ties" keeps.
        check: Called before each tensor is computed; raises an error if the merge must end.
    """
    shared, store = context.shared, context.store
    context.require_current_mapping()
    clean = shared.holds == parent and not shared.dirty
    restore(shared, store, parent, clean=clean)
    store.require_space(shared.nbytes)
    names = [entry.name for entry in unique_entries(shared)]
    ends: list[Ends] = [(store.load_weights(part.start), store.load_weights(part.end)) for part in parts]
    for tensors in (tensors for pair in ends for tensors in pair):
        if missing := set(names) - tensors.keys():
            raise IntegrityFault(f"a checkpoint of the merge has no {min(missing)}: it is of another model")
    moved, merged = ChangeSize(), {}
    for name, change in changes(names, ends, [part.weight for part in parts], method, density):
        check()
        own = to_raw(shared.tensors[name])
        merged[name] = added(own, change)
        moved += size_of(np.subtract(values(merged[name]), values(own)))
    try:
        with shared.lock.write_lock():  # under one lock: no request is answered by a half-merged model
            shared.dirty = True
            shared.holds = ""
            for name, raw in merged.items():
                shared.tensors[name].copy_(from_raw(raw))
            shared.bump()
    except BaseException:
        restore(shared, store, parent, clean=clean, force=True)
        raise
    return moved
