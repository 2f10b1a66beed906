"""Extraction of lessons: conversations become signals and a piece of the memory graph.

`rules` (with `cues`, `words`, `harm`) and `model` find signals, `lessons` decides what each may teach,
`extract` joins them into records, `handler` is the work of kind `extract`. Invariant: everything but `model`
and `handler` is pure, so the same conversation gives the same records. `loop` imports this package; it
imports no other agent.
"""
