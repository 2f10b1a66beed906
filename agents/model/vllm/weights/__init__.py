"""The weights of a user's own vLLM: the models that can be trained, the weights' export, and their watchdog.

Invariant: a model that cannot be trained is served unchanged, and the reason is logged once. `plugin.py`
imports this package.
"""
