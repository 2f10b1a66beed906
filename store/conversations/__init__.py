"""Conversations in the ledger: adding them, and forgetting them with everything derived from them.

Invariant: secrets are removed from a conversation before it is stored. A forgotten conversation leaves
nothing behind but tombstones, which are digests. No other folder of `store` imports this package;
`agents.ingest` and `loop` do.
"""
