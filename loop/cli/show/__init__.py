"""The text output of the commands: a function for each result, one file for each group of commands.

`console` lies below the others: it holds the two consoles, the progress bars and the logs. Invariant: nothing here
decides anything or reads the ledger; every figure comes from the result that is passed in.
"""
