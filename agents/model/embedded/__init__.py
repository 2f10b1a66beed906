"""The embedded model server: a process that serves a small model over HTTP on a unix socket.

`server` is the process, `routes` its HTTP, `engine` its threads; `chat`, `sampling`, `forward`, `qwen3` and
`activation_steering` turn messages into answers.

Invariant: the server reads parameters where they lie in the shared weights, so an update counts from the next
token on. The service starts it as a separate process. Outside this package, only the vLLM plugin imports
something from it: `ChatTokenizer` and its settings.
"""
