"""The agents, a folder each: model, ingest, extractor, dreamer, pairs, evaluator, trainer and readout.

Invariant: an agent imports `corpus`, `store` and `agents.model`, and no other agent. Only `loop` imports
agents.
"""
