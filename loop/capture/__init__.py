"""Capture: the exchanges that pass through the proxy become lines of logs, which ingest follows.

Invariant: only a whole answer becomes a line, and capturing never delays or fails an answer. `loop.api` and
`loop.operations.forget` import this package.
"""
