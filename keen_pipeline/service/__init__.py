"""The embedded service: Keen's Data Extraction API, run by us.

Importing this package is cheap; DuckDB and Starlette are imported when a service is served.
"""

from __future__ import annotations

from keen_pipeline.service.config import ServiceConfig


def serve(config: ServiceConfig) -> None:
    """Run the service until SIGTERM or SIGINT; see `keen_pipeline.service.server.serve`."""
    from keen_pipeline.service.server import serve as run  # the server's imports cost a second

    run(config)


__all__ = ["ServiceConfig", "serve"]
