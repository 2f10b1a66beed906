"""Readers of traces and of the logs of gateways, in which each record is a call of a model.

Invariant: one pure reader a file, each with a sample that we wrote and the address of the public description.
`corpus.formats.detect` imports every reader; the readers do not import each other.
"""
