"""The embedded model server: a process that serves a small model over HTTP on a unix socket.

`server` is the process, `routes` its HTTP, `engine` its thread, and `running` the batch of all rows. `chat`
turns messages into tokens and `sampling` tokens into text; `draw` chooses a token. `forward` says what a
model does for a batch, `decoder` does it for the common families, with the arithmetic of `kernel` and the
cache of `kv_cache`. `working_weights` are the tensors that it computes with, and `activation_steering` what
requests add to it.

Invariant: a pass computes with the shared weights as they are when it begins, so an update counts from the
next token on. The service starts it as a separate process. Outside this package, only the vLLM plugin
imports something from it: `ChatTokenizer` and its settings.
"""
