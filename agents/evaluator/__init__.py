"""The evaluator: it judges the answers for pairs, and measures the behaviours for verdicts.

Invariant: every judgement has a reason, and the same weights and seed give the same measurement. This package
imports `agents.model` and `store`. Apart from tests and benchmarks, only `loop` imports this package.
"""
