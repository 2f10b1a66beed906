"""Removal of secrets from text: by the secret's form (`patterns.py`) and by its name (`assignments.py`).

Invariant: pure, idempotent and linear in the length of the text. `patterns.scrub` applies both modules. The
ingest agent and `store.conversations` import it.
"""
