"""One reader for each log format, a module each; `detect.py` chooses the one that a file needs.

Invariant: a reader is pure. It takes one decoded JSON value and its line number, and returns a Conversation,
a BadLine with the reason, or None for a record without talk. This package knows nothing about files or the
ledger. The ingest agent and the capture import it.
"""
