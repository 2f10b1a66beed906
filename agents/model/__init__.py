"""The served model: its client, its servers, and the memory in which its weights are shared.

`client` is the service's HTTP client and `requests` reads its requests on the server; `embedded/` is the
small server, `vllm/` the plugin of a user's own vLLM, `weights/` the shared weights, `steering/` activation
steering, and `internals` the interface to the residual stream. `protocol`, `http_auth`, `process`, `safety`,
`describe` and `settings` serve both sides.

Invariant: no remote code, no pickle. This package imports the store and the corpus; every agent and the loop
may import it, and it imports no other agent.
"""
