"""The embedded model server: a process that serves a small model over HTTP on a unix socket.

`server` is the process, `routes` its HTTP, `engine` its threads; `chat`, `sampling`, `forward`, `qwen3` and
`activation_steering` turn messages into answers.

Invariant: parameters are read where they lie in the shared weights, so an update counts from the next token
on. Started as a process of its own; `ChatTokenizer` alone is imported elsewhere (by the vLLM plugin).
"""
