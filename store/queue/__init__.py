"""The durable work queue: pieces of work as rows, and the one transaction that commits an outcome.

Invariant: the results of a piece of work, its follow-up work and its state `done` are committed together, so
that every piece of work takes effect exactly once. This package knows nothing about the kinds of work. The
agents' handlers return outcomes; the worker in `loop` leases work and commits outcomes.
"""
