"""The text output of the commands: one function for each result, one module for each group of commands.

The modules share `console`, which has the two consoles, the progress bars and the set-up of the logs.

Invariant: this package decides nothing and does not read the ledger. Every figure that it prints comes from
the result that it gets. Only `loop.cli` imports it.
"""
