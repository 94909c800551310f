"""Alembic's entry point; the connection, its transaction and its lock come from `keen_pipeline.ledger.database.migrate`."""

from alembic import context

from keen_pipeline.ledger.database.migrate import VERSION_TABLE
from keen_pipeline.ledger.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
