"""The embedded service: Keen's Data Extraction API, run by us.

Importing this package is cheap; DuckDB and Starlette are imported when a service is served.
"""

from __future__ import annotations

from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.storage.places import ObjectStore, StorageError


def serve(config: ServiceConfig, objects: ObjectStore | None = None, results: ObjectStore | None = None) -> None:
    """Run the service until SIGTERM or SIGINT; see `keen_pipeline.service.http.server.serve.serve`."""
    from keen_pipeline.service.http.server.serve import serve as run  # the server's imports cost a second

    run(config, objects, results)


__all__ = ["ObjectStore", "ServiceConfig", "StorageError", "serve"]
