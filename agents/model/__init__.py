"""The served model: its client, its servers, and the memory in which its weights are shared.

`client` is the HTTP client that the service uses, and `requests` checks a request's fields on the server.
`embedded/` is the small server, `vllm/` the plugin for a user's own vLLM, `weights/` the shared weights,
`sources/` the ways to get a model, `meter` the count of tokens, `steering/` activation steering, and
`internals` the interface to the residual stream. Both client and servers use `protocol`, `http_auth`,
`process`, `safety`, `describe` and `settings`.

Invariant: no remote code, no pickle. This package imports the store and the corpus; every agent and the loop
may import it, and it imports no other agent.
"""
