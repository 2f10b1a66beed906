"""Nights, updates and checkpoints over time: their transactions, reports, lineage and audit.

Invariant: `history` alone moves the active pointer and changes what is kept or undone; everything else here
reads and returns the records of `results`. `agents.trainer`, `loop`, `store.task_vectors` and
`store.conversations` import it.
"""
