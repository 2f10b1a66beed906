"""Readout and steering on a user's own vLLM, from the hooks on its layers to the fields of its answers.

Readout scores the tokens of an answer by concept; steering moves an answer along concepts. `hooks` and
`publisher` run in the process that computes forward passes, `serving` runs in the process that answers
requests, and both use `scores`. Invariant: no forward pass waits for a reader of the scores. `plugin.py` and
`routes/` import this package.
"""
