"""The verdict on an update: evidence from held-out scenarios, and the decision to keep or to roll back.

Invariant: pure. Every module takes values and returns values; none reads the ledger, asks a model or knows
the time. `loop.night` gathers the values and carries out the decision.
"""
