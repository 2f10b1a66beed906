"""Durable files, and the failpoints at which a test crashes the process that writes them.

Invariant: after a function of `durable` returns, its effect outlives a loss of power. A file under its final
name is whole. This package knows nothing about the content of files. Every package but `corpus` may import
it.
"""
