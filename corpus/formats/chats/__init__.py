"""Readers of the exports and the databases of chat applications.

Invariant: one pure reader a file, each with a sample that we wrote and the address of the public description.
`corpus.formats.detect` imports every reader; the readers do not import each other.
"""
