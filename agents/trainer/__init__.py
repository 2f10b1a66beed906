"""The trainer: trains the served weights in place, in a process of its own.

Four modules run in the service and load no torch: `handler.py` handles the work kinds `train` and `merge`,
`client.py` is the client of the trainer's socket, `messages.py` defines requests and results, and `wire.py`
converts them to messages and back. `process/`, `update/`, `scoring/` and `apollo/` run in the trainer's
process. Both sides use `memory_estimate.py`.

Invariant: only the trainer's process writes the shared weights, and this process never opens the ledger.
`loop` may import the torch-free modules; no other agent imports this package.
"""
