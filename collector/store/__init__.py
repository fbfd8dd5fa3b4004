"""The store: what a collector keeps. `sqlite.Store` writes, `queries.Reader` reads, `schema.sql` says what there is."""
