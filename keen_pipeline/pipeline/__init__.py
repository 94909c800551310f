"""The use cases: submit, poll, land, count. No Dagster in them; Dagster and the command line are two callers."""

from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.pipeline.counts import Counted, count_landed, verdict
from keen_pipeline.pipeline.extractions.poll import Polled, poll
from keen_pipeline.pipeline.extractions.post import Posted, post_due
from keen_pipeline.pipeline.extractions.submit import Submission, gaps, requests_of_a_night, submit
from keen_pipeline.pipeline.extractions.wait import Ended, Hindered, Progress, Retrying, Stopped, extract
from keen_pipeline.pipeline.files.land import Landed, NotLanded, land
from keen_pipeline.pipeline.requests import ad_hoc_request, partition_request

__all__ = [
    "Counted",
    "Ended",
    "Hindered",
    "Landed",
    "NotLanded",
    "Pipeline",
    "Polled",
    "Posted",
    "Progress",
    "Retrying",
    "Stopped",
    "Submission",
    "ad_hoc_request",
    "count_landed",
    "extract",
    "gaps",
    "land",
    "partition_request",
    "poll",
    "post_due",
    "requests_of_a_night",
    "submit",
    "verdict",
]
