"""The plugin for a user's own vLLM: shared weights, salted prefixes, routes, readout and steering.

`plugin.py` is the entry point. `weights/` shares and restores the weights, `routes/` adds HTTP routes, and
`readout/` reads and steers the residual stream.

Invariant: the plugin wraps functions of vLLM, each in one place. If no home names a vLLM (`model.url`), vLLM
serves as without the plugin. vLLM imports this package through its entry points. `loop` imports only
`served_directory`.
"""
