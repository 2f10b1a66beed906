"""Removal of secrets and personal data from text.

`tokens` knows secrets by their own form, `assignments` by their name, `announced` by the words around them.
`patterns.scrub` applies all three and holds the version of the rules. `personal` masks what names a person,
where a home asks for it.

Invariant: pure, idempotent and linear in the length of the text. The ingest agent and `store.conversations`
import it.
"""
