"""The durable history on SQLAlchemy: one method, one transaction."""

from keen_pipeline.ledger.database import open_engine
from keen_pipeline.ledger.limiter import LedgerRateLimiter
from keen_pipeline.ledger.sql import SqlLedger

__all__ = ["LedgerRateLimiter", "SqlLedger", "open_engine"]
