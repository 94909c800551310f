"""The durable history of extractions, and the budget of API requests, in any database of SQLAlchemy."""

from keen_pipeline.ledger.database.engine import open_engine
from keen_pipeline.ledger.ledger import Slice, SqlLedger
from keen_pipeline.ledger.limiter import LedgerRateLimiter
from keen_pipeline.ledger.reader import CollectionState, PartitionState
from keen_pipeline.ledger.submissions import Requested

__all__ = ["CollectionState", "LedgerRateLimiter", "PartitionState", "Requested", "Slice", "SqlLedger", "open_engine"]
