"""Raw tensors: the safetensors file format, the numbers in a tensor, and the changes that an update made.

Invariant: these modules use NumPy at most, and no torch. Tensors are read a piece at a time, so that a model
is never in memory twice. This package knows nothing about the ledger or checkpoints. Every package but
`corpus` may import it.
"""
