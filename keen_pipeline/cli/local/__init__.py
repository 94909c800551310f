"""The commands that run or feed something on this machine: the service, Dagster, the sample."""
