"""The HTTP routes that the plugin adds to a user's own vLLM: batches, training and their access rules.

Invariant: nothing here blocks vLLM's event loop. vLLM imports this package through its entry point, and so
does `plugin.py`.
"""
