"""Task vectors: their arithmetic, their files, and merges in the ledger.

Invariant: `arithmetic.py` is pure, `file.py` knows no ledger and `merges.py` knows no weights. The trainer
imports the arithmetic; the loop imports all three.
"""
