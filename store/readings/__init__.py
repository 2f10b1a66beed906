"""Readings of the model's inner states, versions of the concept vectors, sweeps and predictions, as rows.

A reading is the scores of a text on the concept vectors, computed from the model's activations. Invariant: a
row is written once. This package knows vectors by their digests, and never loads a model. `loop`,
`store.nights` and `store.conversations` import it.
"""
