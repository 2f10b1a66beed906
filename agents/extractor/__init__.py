"""Extraction of lessons: conversations become signals and a piece of the memory graph.

`rules` (with `cues`, `words` and `harm`) and `model` find signals. `lessons` decides what each signal may
teach. `extract` makes the records for the ledger. `handler` does the work of kind `extract`. Invariant: all
modules but `model` and `handler` are pure, so the same conversation gives the same records. `loop` imports
this package. The package imports no other agent.
"""
