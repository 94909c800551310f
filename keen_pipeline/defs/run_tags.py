"""Collections' run tags: who shares a step or a run with whom."""

from __future__ import annotations

import hashlib
import json

from keen_pipeline.collection import Collection


def tags_identity(collection: Collection | None) -> str:
    """Equal for collections with equal `run_tags`, empty for those without; eight hexadecimal digits, fit for a name."""
    if collection is None or not collection.run_tags:
        return ""
    return hashlib.sha256(json.dumps(dict(collection.run_tags), sort_keys=True).encode()).hexdigest()[:8]
