"""The agents, each in its own folder: model, ingest, extractor, dreamer, pairs, evaluator, trainer, readout.

Invariant: an agent imports `corpus`, `store` and `agents.model`, and no other agent. Only `loop` imports
agents.
"""
