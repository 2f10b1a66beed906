"""Everything that is kept: the ledger and what is in it, the memory graph, checkpoint files, and the home.

Invariant: this package knows nothing about agents or torch models; `agents` and `loop` may import it. Its
folders import one way: files < tensors < checkpoints; ledger < queries < graph < queue < readings < nights <
task_vectors < conversations.
"""
