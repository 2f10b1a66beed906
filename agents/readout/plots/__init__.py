"""Pictures of readouts: the timeline of a conversation's readings, and a map of the concepts.

Invariant: a picture is a pure, deterministic list of shapes; only `paint.py` writes files. Knows neither the
model nor the ledger. Imported by `loop.cli`.
"""
