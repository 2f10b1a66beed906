"""The dreamer: memory graph -> dreams, at a temperature that follows each behaviour's failure rate.

Invariant: behaviours and their counter-behaviours are dreamt together; every draw is seeded by night,
behaviour and index. This package imports `model/` and the store; only the loop imports it.
"""
