"""HTTP to Keen: the extraction API, and the transfer of results. Every vendor error is translated once, here."""

from keen_pipeline.client.keen import KeenClient
from keen_pipeline.client.results.renewal import RenewingResults

__all__ = ["KeenClient", "RenewingResults"]
