"""The running service: two child processes, the worker that empties the queue, the schedule.

Invariant: `service.opened` holds the home's lock for as long as any of it runs; only the worker runs
handlers, and only it catches their errors. `loop.api`, `loop.operations` and `loop.cli` import this package;
`schedule` is pure.
"""
