"""Pictures of readouts: the timeline of a conversation's readings, and a map of the concepts.

Invariant: a picture is a list of shapes that depends on its data alone. Only `paint.py` writes files. This
package knows nothing about the model or the ledger. `loop.cli` imports this package.
"""
