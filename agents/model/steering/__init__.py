"""Activation steering: concept vectors, and the directions that names and strengths stand for.

`concept_vectors` reads and writes a home's files of vectors, `directions` turns strengths into directions,
and `wire` defines the forms of a request to steer.

Invariant: a strength is a distance in the residual stream, along a unit vector. This package knows nothing
about torch, and `wire` does not even use numpy. Both servers, readouts, the trainer and the loop import it.
"""
