"""The HTTP routes that the plugin adds to a user's own vLLM: batches, training and their access rules.

Invariant: nothing here blocks vLLM's event loop. Imported by vLLM through its entry point and by `plugin.py`.
"""
