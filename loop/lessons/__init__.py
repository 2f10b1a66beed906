"""Lessons: the proposals that a person reviews, from the ledger to behaviour files.

`gathering` brings the proposals up to date, `accepting` writes behaviour files, `operations` has what
commands call, `results` what they return. Invariant: a behaviour that a person accepted is a file in the
home's `behaviours/`, which is complete or absent. Only `loop` imports this package.
"""
