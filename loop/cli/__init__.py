"""The command line: one module for each group of commands, and `show/` for the text that a person reads.

`app` assembles the groups and turns errors into messages and exit codes. Each group is a `typer.Typer`, and
all of them use `helpers`. Invariant: a command holds no logic: it runs an operation or a query and prints the
result. `nightschool --help` loads nothing heavy. No other folder imports this one.
"""
