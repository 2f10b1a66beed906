"""Activation steering: concept vectors, and the directions that names and strengths stand for.

`concept_vectors` are a home's files of vectors, `directions` turns strengths into directions, and `wire`
holds the forms in which a request travels.

Invariant: a strength counts in units of the residual stream, along a unit vector. This package knows nothing
about torch, and `wire` does not even use numpy. Both servers, readouts, the trainer and the loop import it.
"""
