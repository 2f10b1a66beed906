"""Proposals: complaints that mean the same become a drafted behaviour, for a person to accept.

`gather` joins complaints, `weigh` says how sure a proposal is and what it contradicts, `draft` writes the
behaviour file. Invariant: all modules are pure, and drafts are made by rules: no sentence of a log goes into
a rule. This package imports `corpus` and `store`. Only `loop` imports it.
"""
