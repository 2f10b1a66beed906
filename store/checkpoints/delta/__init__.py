"""Deltas: the tensors of a checkpoint as changes to an immutable base.

`encode.py` writes, undoes and redoes them, `format.py` is the form of the file, `elements.py` the coding of
one chunk. Invariant: the bytes depend on the tensors, the base's digest and the release of zstd alone. Only
the blobs import it.
"""
