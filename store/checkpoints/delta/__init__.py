"""Deltas: the tensors of a checkpoint as changes to other tensors, the base, which never change.

`encode.py` writes, undoes and redoes a delta; `format.py` defines its file; `elements.py` codes one chunk of
a tensor. Invariant: the bytes of a delta depend on the tensors, the base's digest and the release of zstd
alone. Only `blobs.py` imports this package.
"""
