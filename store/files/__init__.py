"""Durable files, and the failpoints at which a test crashes the process that writes them.

Invariant: after a function of `durable` returns, its effect outlives a loss of power; a file under its final
name is whole. This package knows nothing about what is written. Everything above `corpus` may import it.
"""
