"""Several equal processes over one PostgreSQL catalogue and one object store.

An event is acknowledged once its row is committed in the catalogue. Rows are folded into Parquet segments in the object store by
whichever process holds the collection's writer lease; a lease only saves double work: each change of the catalogue is one
transaction that names what it replaces, and fails where another process was quicker. Readers see segments and rows of one moment.
"""
