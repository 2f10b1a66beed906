"""The pair builder: it has dreams answered and judged, builds pairs, and chooses the pairs of an update.

Invariant: both answers of a pair were judged. The context of a pair never contains the instruction under
which an answer was made. This package imports `agents.model` and `store`, and calls the evaluator through a
protocol. Only `loop` imports this package.
"""
