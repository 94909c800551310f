"""Received bytes, proven: download, verify, publish whole files at a destination."""

from keen_pipeline.landing.destination import FileDestination
from keen_pipeline.landing.layout import ad_hoc_key, parse_target, target_uri

__all__ = ["FileDestination", "ad_hoc_key", "parse_target", "target_uri"]
