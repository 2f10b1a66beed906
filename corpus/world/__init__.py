"""The embedded model's world: its words, requests, answers, checks, ordinary talk and concepts.

Invariant: pure. The same seed gives the same texts in every release. Checkpoints, held-out scenarios and
concept vectors depend on these texts, so no text and no order of draws may change. The recipe of the embedded
model, the agents and the loop import it.
"""
