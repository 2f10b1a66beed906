"""The evaluator: it judges answers and measures behaviours, for pairs and verdicts alike.

Invariant: every judgement has a reason, and the same weights and seed give the same measurement. This package
imports `model/` and the store; only the loop imports it (tests and bench aside).
"""
