"""The scores at the end of many texts, through the trainer's view of the served weights.

Invariant: the same texts in the same order give the same scores; weights that change meanwhile are a `GateRefused`.
Knows no ledger.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.readout.collect import PIECE, Source
from corpus.aliases import Progress
from corpus.errors import GateRefused

Floats = NDArray[np.float64]


async def scores_at_ends(
    source: Source,
    texts: Sequence[str],
    values: NDArray[np.float32],
    layer: int,
    report: Progress | None = None,
) -> Floats:
    """The projections of the residual stream after a layer at each text's last token: `(n_texts, n_concepts)`.

    values: `(n_concepts, hidden_size)`. Of a text that is longer than the model's context its end is read.
    """
    before = (await source.trainer.status()).version
    context = (await source.model.models()).context
    tokens = [row[-context:] for row in await source.model.tokenize_texts(list(texts))]
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    found = np.zeros((len(tokens), len(values)))
    for first in range(0, len(order), PIECE):
        part = order[first : first + PIECE]
        seen = await source.trainer.activations([tokens[index] for index in part], (layer,))
        stream = np.frombuffer(seen.data, dtype=np.float32).reshape(seen.texts, seen.hidden)
        found[part] = stream.astype(np.float64) @ values.astype(np.float64).T
        if report is not None:
            await report(first + len(part), len(order))
    if (await source.trainer.status()).version != before:
        raise GateRefused("the weights changed while texts were read: nothing was kept, it is done again")
    return found
