"""The quality of concept vectors: metrics, a report with a verdict in words, and a page of Markdown.

Invariant: everything but `examiner.py` is pure, from arrays to records. `examiner.py` reads the served
weights and writes the pages. `loop.operations` and `loop.cli` import this package.
"""
