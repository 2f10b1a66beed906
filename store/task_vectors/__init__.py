"""Task vectors (the changes of weights by training): their arithmetic, their files, and merges in the ledger.

Invariant: `arithmetic.py` is pure, `file.py` does not use the ledger and `merges.py` does not use weights.
The trainer imports `arithmetic.py`; `loop` imports all three.
"""
