"""Conversations in the ledger: taking them in, and forgetting them with everything derived from them.

Invariant: what enters is scrubbed, and what is forgotten leaves nothing behind but tombstones. Nothing else
in `store` imports it; `agents.ingest` and `loop` do.
"""
