"""The assets: the files of collections, and what is made of them by us: lists of values, tables."""
