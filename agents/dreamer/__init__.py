"""The dreamer: it makes dreams from the memory graph, at a temperature that follows the failure rates.

Invariant: a behaviour and its counter-behaviour get their dreams together. The seed of every draw depends
only on the night, the behaviour and the draw's index. This package imports `agents.model` and `store`. Only
`loop` imports this package.
"""
