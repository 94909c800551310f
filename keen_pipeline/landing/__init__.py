"""Received bytes, proven: download, verify, publish whole files at a destination."""

from keen_pipeline.landing.destination import FileDestination

__all__ = ["FileDestination"]
