"""The results of operations: what the command line prints, and what HTTP and ZMQ carry; one module a subject.

Invariant: a result's fields are the keys of its JSON (`corpus.json_edge`), which users and their scripts know: a field
that is added is a key that is added, and none is renamed. A base class named `_At...`, named last, holds the keys
that come first. Holds values only; all of `loop` may import it.
"""
