"""The ledger itself: its tables, their migrations, their records, and transactions.

Invariant: a record's fields are its table's columns, and a released migration never changes. This package
knows nothing about the queries on the rows. Every package but `corpus` and `store.files` may import it; only
`store` and the outcomes that agents' handlers return write to it.
"""
