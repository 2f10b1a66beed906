"""Extraction of lessons: conversations become signals and a piece of the memory graph.

`rules` and `model` find signals. The rules read the user's own words (`own_words`) by the tables of
`corpus/signals` (`tables`, `patterns`, `cues`), and compare them with the answer (`contrast`) and with the
request (`repeats`). `harm` keeps harm out. `lessons` decides what each signal may
teach. `extract` makes the records for the ledger. `handler` does the work of kind `extract`. Invariant: all
modules but `model` and `handler` are pure, so the same conversation gives the same records. `loop` imports
this package. The package imports no other agent.
"""
