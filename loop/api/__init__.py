"""The interfaces of a service: operations for the command line, HTTP for users, ZMQ for vLLM's routes.

Invariant: an operation does the same through every interface. An operation continues when its caller
disconnects. Arguments and results are converted from and to JSON here. Only `loop.cli` imports this package.
"""
