"""One night: the order of its work (`flow`), one class for each kind of work, and the verdict.

Invariant: such a class, called a stage, reads rows of the ledger, calls an agent, and returns an `Outcome`.
If a stage runs again after a crash, it returns the same outcome. A stage takes a `NightContext`, never the
service. It measures or reads weights only while the shared weights hold exactly the checkpoint that it asks
about. `loop.engine` and `loop.operations` import this package.
"""
