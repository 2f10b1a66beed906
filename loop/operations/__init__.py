"""The operations on a home, one module for each; `results/` holds the records that they return.

The module `operations` collects the operations that change a home or need its model. The command line, HTTP
and ZMQ call them there. All other operations only read the home, whether a service runs or not.

Invariant: an operation returns a record, never a dictionary, and knows neither the command line nor HTTP.
`loop.api` and `loop.cli` import this package.
"""
