"""The results of operations: records that the command line prints, and that HTTP and ZMQ send as JSON.

Invariant: the fields of a result become the keys of its JSON (`corpus.json_edge`). Users' scripts depend on
these keys, so fields may be added, but never renamed. The keys that come first in the JSON are in a base
class named `_At...`, which stands last among the bases. This package holds values only; all of `loop` may
import it.
"""
