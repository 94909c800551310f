"""The use cases: submit, poll, land, record. No Dagster in them; Dagster and the command line are two callers."""

from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.pipeline.counts import Counted, recount
from keen_pipeline.pipeline.land import Landed, NotLanded, land
from keen_pipeline.pipeline.poll import PollOutcome, poll
from keen_pipeline.pipeline.requests import ad_hoc_request, partition_request
from keen_pipeline.pipeline.submit import Submission, post_due, submit
from keen_pipeline.pipeline.wait import extract

__all__ = [
    "Counted",
    "Landed",
    "NotLanded",
    "Pipeline",
    "PollOutcome",
    "Submission",
    "ad_hoc_request",
    "extract",
    "land",
    "partition_request",
    "poll",
    "post_due",
    "recount",
    "submit",
]
