"""The end of a run in which something failed, as Dagster shows it."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.told import summary


def failure(landed: int, failed: Sequence[tuple[Entry, str]], problems: Sequence[str] = ()) -> dg.Failure:
    """What failed and why; what landed is kept. It is not tried again as a whole."""
    return dg.Failure(
        description=summary(landed, failed, problems),
        metadata={"landed": landed, "failed": len(failed)},
        allow_retries=False,
    )
