"""One night: its order (`flow`), one class for each kind of its work, and the verdict.

Invariant: a stage reads rows, asks an agent, and returns an `Outcome`; done again after a crash it returns
the same. It takes a `NightContext`, never the service. Weights are looked at only while the shared weights
hold exactly the checkpoint in question. `loop.engine.service`, `loop.engine.worker` and `loop.operations`
import this package.
"""
