"""Forward passes of the served model: log-probabilities of continuations, and the residual stream.

Invariant: a text's result depends on its own tokens alone, up to rounding. No hook or other change stays on
the model. This package knows nothing about losses or the optimizer. `agents.trainer.update` and
`agents.trainer.process` import this package.
"""
