"""The operations on a home, a module for each; `results/` holds the records that they return.

`operations` gathers those that change a home or need its model: the command line, HTTP and ZMQ call them
there. The others only read, whether a service runs or not. Invariant: an operation returns a record, never a
dictionary, and knows neither the command line nor HTTP. `loop.api` and `loop.cli` import this folder.
"""
