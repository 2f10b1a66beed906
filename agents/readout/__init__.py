"""Readouts: concept vectors on the residual stream, and the scores of texts along these vectors.

`train.py` and `behaviour_vectors.py` make vectors. `monitor.py` scores a fixed probe set of texts before and
after an update, and `drift.py` computes how far these readings moved. `conversations.py` prepares the turns
of a conversation. `quality/` examines concept vectors, and `plots/` draws.

Invariant: this package loads no torch, never changes the weights and never decides about an update. Only
`loop` imports this package.
"""
