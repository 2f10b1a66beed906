"""The queries of the ledger that agents and the loop need, in one module for each subject.

Invariant: this package only reads. Rows are returned as the records of `store.ledger.records`, in an order
that is fixed by their content (ids, positions), so that every run sees them in the same order. All packages
but `corpus` and `store.ledger` may import it, as `from store import queries`, so that a call names the
package: `queries.running_night(...)`.
"""

from store.queries.checkpoints import (
    active,
    checkpoint,
    checkpoints,
    going_on,
    kept,
    require_stored,
    stored,
)
from store.queries.conversations import conversation, conversation_named, turns
from store.queries.measurements import (
    batches,
    measured,
    measurements,
    perplexities,
    perplexity_pair,
    read_with,
    readings,
)
from store.queries.nights import (
    cursor,
    is_paused,
    last_night,
    model_digest,
    night,
    nights_since,
    paused_during,
    repeat_of,
    repeated_by,
    running_night,
    tokens,
)
from store.queries.practice import (
    attempts,
    dream_counts,
    dreams,
    dreamt_texts,
    hardest_dreams,
    last_trial,
    pairs,
    placement_trials,
    rates,
)
from store.queries.updates import (
    last_trained,
    learnt_behaviours,
    learnt_pairs,
    lost_by,
    pairs_of,
    targets,
    unlearnt_by,
    update,
    update_of,
    verdict,
)

__all__ = [
    "active",
    "attempts",
    "batches",
    "checkpoint",
    "checkpoints",
    "conversation",
    "conversation_named",
    "cursor",
    "dream_counts",
    "dreams",
    "dreamt_texts",
    "going_on",
    "hardest_dreams",
    "is_paused",
    "kept",
    "last_night",
    "last_trained",
    "last_trial",
    "learnt_behaviours",
    "learnt_pairs",
    "lost_by",
    "measured",
    "measurements",
    "model_digest",
    "night",
    "nights_since",
    "pairs",
    "pairs_of",
    "paused_during",
    "perplexities",
    "perplexity_pair",
    "placement_trials",
    "rates",
    "read_with",
    "readings",
    "repeat_of",
    "repeated_by",
    "require_stored",
    "running_night",
    "stored",
    "targets",
    "tokens",
    "turns",
    "unlearnt_by",
    "update",
    "update_of",
    "verdict",
]
