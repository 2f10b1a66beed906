"""Nights, updates and checkpoints over time: their transactions, reports, lineage and audit.

Invariant: only `history` makes another checkpoint active and marks updates as kept or undone. The other
modules only read; `report` and `lineage` return the records of `results`. `agents.trainer`, `loop`,
`store.task_vectors` and `store.conversations` import this package.
"""
