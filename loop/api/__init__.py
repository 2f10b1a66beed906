"""The ways into a running service: operations for the command line, HTTP for users, ZMQ for vLLM's routes.

Invariant: an operation means the same whichever way it is called, and a caller that leaves does not stop what
it began. JSON is made and read here, at the edge. Only `loop.cli` imports this package.
"""
