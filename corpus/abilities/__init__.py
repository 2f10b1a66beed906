"""Prompts that a program can check, for models that the project does not ship.

One file a topic, one prompt a line: the messages, the name of a check with its parameters, an answer that
passes and one that fails. They measure whether an update harmed abilities that it was not meant to touch.
Invariant: nothing trains on them. Everyone may import it.
"""
