"""The catalogue of checks: rules for answers that a person can name without writing a pattern.

`catalogue` lists the checks with their parameters, `situations` the requests for which a rule may hold or not
hold, `sides` the behaviour and the counter-behaviour that a check makes, `requests` the requests for
measuring them. The other modules have the checks by subject. Every check has examples in `examples/`, which
are its tests. Invariant: pure and total: any request and any answer give a result. Every package may import
this one.
"""
