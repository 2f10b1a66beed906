"""The vLLM plugin: weight sharing, salted prefixes, routes, readout and steering on a user's own vLLM.

`plugin.py` is the entry point; `weights/`, `routes/` and `readout/` hold the three subjects. Invariant:
vLLM's own functions are wrapped, each in one place, and without a home that names this vLLM it serves as
without the plugin. vLLM imports this package through its entry points. `loop` imports `served_directory`
alone.
"""
