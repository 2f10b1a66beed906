"""The running service: its two child processes, the worker that empties the queue, and the schedule.

Invariant: `service.opened` holds the home's lock while the service runs. Only the worker runs handlers, and
only the worker catches their errors. `schedule` is pure. `loop.api`, `loop.operations` and `loop.cli` import
this package.
"""
