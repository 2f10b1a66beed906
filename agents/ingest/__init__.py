"""Ingest of conversation logs: finding and following the files, and reading them into the ledger.

Invariant: a turn is acknowledged once it is committed together with the offset behind it, and is never read
again. A damaged file never stops the others. `loop` imports this package; it imports no other agent and does
not know what a conversation teaches.
"""
