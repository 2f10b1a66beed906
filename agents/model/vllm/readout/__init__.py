"""Readout and steering on a user's own vLLM, from the hooks on its layers to the fields of its answers.

`hooks` and `publisher` run in the process of the forward pass, `serving` in the one that answers; `scores` is
what both share. Invariant: no forward pass waits for a reader. `plugin.py` and `routes/` import this package.
"""
