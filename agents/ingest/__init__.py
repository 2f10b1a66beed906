"""Logs into the ledger: finds the files, joins the readers of `corpus.formats` to `store.conversations.conversations`.

Invariant: a turn is acknowledged once it is committed together with the offset behind it, and then never
read again; whatever a file holds, the others are read. Does not know what a conversation teaches.
"""
