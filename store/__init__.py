"""The stored data: home, ledger, work queue, queries, memory graph, checkpoint files and task vectors.

Invariant: imports `corpus` alone of ours, and no torch. Knows no agent. `agents` and `loop` import it.
"""
