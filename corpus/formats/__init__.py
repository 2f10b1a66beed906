"""One reader for each log format, each in its own module; `detect.py` chooses the reader for a file.

Invariant: a reader is pure. It takes one decoded JSON value and its line number. It returns a Conversation, a
BadLine with the reason, or None for a record that is no part of a conversation. This package knows nothing
about files or the ledger. The ingest agent and the capture import it.
"""
