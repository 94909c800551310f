"""Several equal processes over one PostgreSQL database and one object store.

An event is acknowledged once its row is committed in the database. The tables of the events lie in the object store. Whichever
process holds a name folds, merges or deletes; that only saves double work: each change of a table is one commit that names what it
replaces, and fails if another process was quicker. Readers see a table and the rows above its watermark.
"""
