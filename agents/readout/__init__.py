"""Readouts: concept vectors on the residual stream, and the scores that are read with them.

`train.py` and `behaviour_vectors.py` make vectors, `monitor.py` reads a fixed probe set before and after an
update, `drift.py` says how far the readings moved, `conversations.py` prepares the turns of a conversation.
`quality/` examines concept vectors, `plots/` draws.

Invariant: this package loads no torch, never changes the weights and never decides about an update. Only
`loop` imports this package.
"""
