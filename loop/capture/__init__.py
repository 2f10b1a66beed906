"""Capture: it writes the exchanges that pass through the proxy to logs, which ingest then reads.

Invariant: only an exchange with a complete answer is written, and capturing neither delays an answer nor
makes it fail. `loop.api` and `loop.operations.forget` import this package.
"""
