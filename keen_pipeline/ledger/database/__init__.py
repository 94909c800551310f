"""The ledger's database: its tables, how it is opened, migrated and changed, and its clock."""
