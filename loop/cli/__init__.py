"""The command line: one module for each group of commands, and `show/` for their text output.

`app` assembles the groups and turns errors into messages and exit codes. Each group is a `typer.Typer`. All
groups use `helpers`.

Invariant: a command runs an operation or a query, and prints the result; it decides nothing else.
`nightschool --help` imports no large library. No other folder imports this one.
"""
