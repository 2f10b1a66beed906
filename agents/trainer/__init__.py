"""The trainer: trains the served weights in place, in a process of its own.

In the service: `handler.py` (the work kinds `train` and `merge`), `client.py` (the socket's client),
`messages.py` (requests and results) and `wire.py` (how they travel); these load no torch. In the trainer's
process: `process/`, `update/`, `scoring/` and `apollo/`. Both use `memory_estimate.py`.

Invariant: only the trainer's process writes the shared weights; it never opens the ledger. `loop` may import
the torch-free modules; no other agent imports this package.
"""
