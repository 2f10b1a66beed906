"""The trainer's process: its start, its socket and its requests.

Invariant: one thread owns the socket, and only the main thread computes. Orders (pause, resume, cancel) reach
an update between two steps. The service starts this process as `python -m agents.trainer.process.main`; no
other code imports this folder.
"""
