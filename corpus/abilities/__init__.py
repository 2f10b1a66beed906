"""Prompts that a program can check, for models that the project does not ship.

Each topic has a file with one prompt on each line: the messages, the name of a check with its parameters, an
answer that passes and an answer that fails. The prompts show whether an update harmed abilities that it was
not meant to touch. Invariant: nothing trains on the prompts. Every package may import this one.
"""
