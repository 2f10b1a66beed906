"""Ingest of conversation logs: finding and following the files, and reading them into the ledger.

Invariant: a turn and the file offset after it are committed in one transaction, so no turn is read twice. A
damaged file never stops the others. `loop` imports this package. The package imports no other agent and does
not know what a conversation teaches.
"""
