"""Raw tensors: the safetensors container, the numbers in it, and what an update changed in them.

Invariant: NumPy at most, no torch; tensors are read a piece at a time, so that a model is never held twice.
This package knows nothing about the ledger or checkpoints. Everything above `corpus` may import it.
"""
