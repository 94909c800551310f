"""From a collection and a partition, or from a person's wish, to a request; refused here before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import Collection, CountPolicy, Encoding, ExtractionRequest, MaskMethod, check_collection_name
from keen_pipeline.filters import Filter
from keen_pipeline.landing.layout import ad_hoc_key, target_uri
from keen_pipeline.partitions import Partition
from keen_pipeline.timeframe import Timeframe, format_instant


def partition_request(collection: Collection, partition: Partition, destination: str) -> ExtractionRequest:
    """The request for one partition; `destination` is the root URI."""
    return ExtractionRequest(
        collection=collection.name,
        timeframe=partition.timeframe,
        partition_key=partition.key,
        target=target_uri(destination, collection.name, partition.key, collection.encoding),
        filters=collection.filters,
        email=collection.email,
        count_check=collection.count_check,
        mask=collection.mask,
    )


def ad_hoc_request(
    collection: str,
    timeframe: Timeframe,
    destination: str,
    *,
    now: datetime,
    filters: Sequence[Filter] = (),
    email: str | None = None,
    encoding: Encoding = Encoding.CSV,
    mask: Mapping[str, MaskMethod] | None = None,
) -> ExtractionRequest:
    """The request of a person; the file's partition key is `{start}_{end}`.

    Raises InvalidInputError for a name that is none, an empty window, or one that begins in the future.
    """
    check_collection_name(collection)
    if timeframe.start == timeframe.end:
        raise InvalidInputError(
            f"timeframe: it is empty, it starts and ends at {format_instant(timeframe.start)}", field="timeframe"
        )
    if timeframe.start > now:
        raise InvalidInputError(f"timeframe: it starts in the future, at {format_instant(timeframe.start)}", field="timeframe")
    key = ad_hoc_key(timeframe)
    target = target_uri(destination, collection, key, encoding)
    # A person's window may still be growing: more events afterwards are told, and not waited for.
    return ExtractionRequest(
        collection, timeframe, key, target, tuple(filters), email, count_check=CountPolicy.WARN, mask=mask or {}
    )
