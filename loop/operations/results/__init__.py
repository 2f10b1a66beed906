"""The results of operations: records that the command line prints, and that HTTP and ZMQ carry as JSON.

Invariant: the fields of a result are the keys of its JSON (`corpus.json_edge`), on which scripts of users
depend: fields may be added, and none is renamed. The last base class of a record holds the keys that come
first: `_At...`. This package holds values only; all of `loop` may import it.
"""
