"""The OpenAPI document of the service."""

from __future__ import annotations

from typing import Any


def document(base_url: str) -> dict[str, Any]:
    """The document, with `base_url` as its server."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Keen Data Extraction API", "version": "3.0"},
        "servers": [{"url": base_url}],
        "paths": {},
    }
