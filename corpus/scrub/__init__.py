"""Removal of secrets from text: by their form (`patterns.py`) and by their name (`assignments.py`).

Invariant: pure, idempotent, linear; `patterns.scrub` applies both. Ingest and the ledger's conversations
import it.
"""
