"""Readings of the model's inner states, versions of the concept vectors, sweeps and predictions, as rows.

Invariant: a row is written once. This package knows vectors by their digests, and never loads a model. `loop`
and `store.nights` import it.
"""
