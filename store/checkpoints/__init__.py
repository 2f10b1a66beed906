"""Checkpoint files: manifests, the blobs of their tensors, deltas, and the policy of which ones stay.

Invariant: files are named by the digest of their content and verified before they are used; data is durable
before the name that refers to it. This package knows nothing about agents, torch or the ledger. Everything
above `store` may import it.
"""
