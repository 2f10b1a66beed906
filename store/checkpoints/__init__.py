"""Checkpoint files: manifests, the blobs of their tensors, deltas, and the policy for pruning checkpoints.

Invariant: files are named by the digest of their content and verified before they are used. Data is durable
before a file that refers to it. This package knows nothing about agents or torch. Of the ledger it knows the
records alone. The other folders of `store`, `agents` and `loop` may import it.
"""
