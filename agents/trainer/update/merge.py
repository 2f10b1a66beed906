"""A merge: from the parent's weights and some task vectors, into the shared weights.

Invariant: nothing is written before all of it is known to be finite, and then it is written under one lock.
The result depends on the parent and the parts alone, and after any failure the shared weights are the
parent's. There is no optimizer state: moments of the parts do not belong to merged weights. This module knows
nothing about the socket or the ledger.
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
    """Make the shared weights the parent's plus the parts; returns how much that changed them.

    `check` is called before each tensor is computed, and raises when the merge must end.
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
        with shared.lock.write_lock():  # all at once: no request is answered by half a merge
            shared.dirty = True
            shared.holds = ""
            for name, raw in merged.items():
                shared.tensors[name].copy_(from_raw(raw))
            shared.bump()
    except BaseException:
        restore(shared, store, parent, clean=clean, force=True)
        raise
    return moved
