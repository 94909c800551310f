"""The embedded service: Keen's Data Extraction API, run by us.

Importing this package is cheap; DuckDB and Starlette are imported when a service is served.
"""

from __future__ import annotations

from collections.abc import Callable

from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.storage.shared.objects import ObjectStore


def serve(config: ServiceConfig, remove_result: Callable[[str], None] | None = None, objects: ObjectStore | None = None) -> None:
    """Run the service until SIGTERM or SIGINT; see `keen_pipeline.service.http.server.serve`."""
    from keen_pipeline.service.http.server import serve as run  # the server's imports cost a second

    run(config, remove_result, objects)


__all__ = ["ObjectStore", "ServiceConfig", "serve"]
