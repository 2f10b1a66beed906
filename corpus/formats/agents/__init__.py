"""Readers of the sessions of coding agents and other agents.

Invariant: one pure reader a file, each with a sample that we wrote and the address of the public description.
`corpus.formats.detect` imports every reader; the readers do not import each other.
"""
