"""One reader per log format; `detect.py` tells which one a file needs.

Invariant: a reader is pure. It takes one decoded JSON value and its line number, and gives a Conversation,
a BadLine with the reason, or None for a record that holds no talk. Knows no file and no ledger.
"""
