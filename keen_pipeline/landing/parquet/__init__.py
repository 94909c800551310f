"""From proven CSV to Parquet."""
