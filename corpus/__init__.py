"""The material of the lessons: conversations, log formats, behaviours, concepts, the embedded model's world.

Invariant: no module here imports `store`, `agents` or `loop`, and none opens the ledger or writes a file,
except `recipe.build`, which writes the embedded model. Every package may import it.
"""
