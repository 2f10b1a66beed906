"""The service, the nights, the operations, and their interfaces (HTTP, ZMQ and the command line).

Invariant: this package imports no torch, so that the service stays small and quick. `corpus`, `store` and
`agents` do not import it.
"""
