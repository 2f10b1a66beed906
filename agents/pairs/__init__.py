"""The pair builder: dreams -> judged attempts -> pairs -> the pairs of an update.

Invariant: both sides of a pair were judged, and no pair's context carries the instruction that made an
answer. This package imports `model/` and the store, and reaches the evaluator through a protocol; only the
loop imports it.
"""
