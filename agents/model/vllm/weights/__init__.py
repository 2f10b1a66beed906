"""The weights of a user's own vLLM: which of them can be trained, their export, and the watchdog over them.

Invariant: what cannot be trained is served unchanged, and the reason is logged once. `plugin.py` imports this
package.
"""
