"""The quality of concept vectors: metrics, a report with a verdict in words, and a page of Markdown.

Invariant: all modules but `examiner.py` are pure: they compute records from arrays. `examiner.py` reads the
served weights and writes the pages. `loop.operations` and `loop.cli` import this package.
"""
