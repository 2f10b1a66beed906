"""Everything that a home stores: the ledger and its rows, the memory graph, and checkpoint files.

Invariant: this package knows nothing about agents or torch models; `agents` and `loop` may import it. In each
of two lists no folder imports a later one: files, tensors, checkpoints; and ledger, queries, graph, queue,
readings, nights, task_vectors, conversations. There is one exception: the reports in `nights` show the
settings of a merge, which are a record of `task_vectors`.
"""
