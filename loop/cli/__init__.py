"""The command line: one file for each group of commands, and `show/` for what a person reads.

`app` puts the groups together and is the boundary at which an error becomes a message and an exit code. Each
group is a `typer.Typer` of its own; `helpers` lies below them all. Invariant: a command holds no logic: it runs
one operation or one query and prints the result. `nightschool --help` loads nothing heavy. Nothing else in the
program imports this folder.
"""
