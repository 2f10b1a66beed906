"""The text output of the commands: a function for each result, a module for each group of commands.

All of them use `console`: the two consoles, the progress bars and the logs. Invariant: nothing here decides
anything or reads the ledger; every figure comes from the result that is passed in. Only `loop.cli` imports
it.
"""
