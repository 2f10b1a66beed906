"""What happens, and when: the service, the nights, the operations, and the ways in (HTTP, ZMQ, command line).

Invariant: this package imports no torch, so that the service stays small and quick. Nothing below `loop`
imports it.
"""
