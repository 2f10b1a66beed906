"""The trainer's process: its start, its socket and its verbs.

Invariant: one thread owns the socket, the main thread alone computes; orders reach an update between two
steps. Started by the service as `python -m agents.trainer.process.main`; nobody else imports this folder.
"""
