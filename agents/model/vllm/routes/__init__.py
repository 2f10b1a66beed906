"""The HTTP routes that the plugin adds to a user's own vLLM: batches, training and their access rules.

Invariant: nothing here blocks vLLM's event loop. vLLM imports this package through an entry point, and
`vllm/plugin.py` imports it too.
"""
