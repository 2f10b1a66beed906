"""An update: training steps or a merge of task vectors, from a parent checkpoint into the shared weights.

Invariant: the result depends on the request and the parent alone, and after any failure the shared weights
are the parent's again. `losses.py` and `objective.py` do not use the shared weights. Only
`agents.trainer.process` imports this package.
"""
