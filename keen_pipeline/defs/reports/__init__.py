"""What Dagster is told of a partition: its materialization, its checks, its failure."""
