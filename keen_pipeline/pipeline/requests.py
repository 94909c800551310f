"""From a collection and a partition, or from a person's wish, to a request; refused here before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from keen_pipeline.collection import Collection, Encoding, Layout, MaskMethod, check_collection_name, check_email
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.extraction import ExtractionRequest, Kind, mask_key_digest
from keen_pipeline.filters import Filter
from keen_pipeline.landing.layout import ad_hoc_key, file_path
from keen_pipeline.partitions import Partition
from keen_pipeline.timeframe import Timeframe, format_instant


def partition_request(collection: Collection, partition: Partition, *, mask_key: bytes | None = None) -> ExtractionRequest:
    """The request for one partition. `mask_key`: of the hashes of masked columns."""
    return ExtractionRequest(
        collection=collection.name,
        timeframe=partition.timeframe,
        partition_key=partition.key,
        path=file_path(collection.name, partition.key, collection.encoding, collection.layout),
        filters=collection.filters,
        encoding=collection.encoding,
        mask=collection.mask,
        mask_key=mask_key_digest(mask_key, collection.mask),
        count_check=collection.count_check,
        email=collection.email,
    )


def ad_hoc_request(
    collection: str,
    timeframe: Timeframe,
    *,
    now: datetime,
    filters: Sequence[Filter] = (),
    email: str | None = None,
    encoding: Encoding = Encoding.CSV,
    mask: Mapping[str, MaskMethod] | None = None,
    mask_key: bytes | None = None,
) -> ExtractionRequest:
    """The request of a person; the file's partition key is `{start}_{end}`.

    Raises InvalidInputError for a name or an address that is none, an empty window, or one that begins in the future.
    """
    check_collection_name(collection)
    check_email(email, f"collection {collection}")
    if timeframe.start == timeframe.end:
        raise InvalidInputError(
            f"timeframe: it is empty, it starts and ends at {format_instant(timeframe.start)}", field="timeframe"
        )
    if timeframe.start > now:
        raise InvalidInputError(f"timeframe: it starts in the future, at {format_instant(timeframe.start)}", field="timeframe")
    key = ad_hoc_key(timeframe)
    return ExtractionRequest(
        collection=collection,
        timeframe=timeframe,
        partition_key=key,
        path=file_path(collection, key, encoding, Layout.PLAIN),
        kind=Kind.AD_HOC,
        filters=tuple(filters),
        encoding=encoding,
        mask=mask or {},
        mask_key=mask_key_digest(mask_key, mask or {}),
        email=email,
    )


def lacks_mask_key(one: Collection | ExtractionRequest, mask_key: bytes | None) -> bool:
    """Whether a column is to be hashed and there is no key here, so that nobody can tell which key hashed a landed file."""
    return mask_key is None and MaskMethod.HASH in one.mask.values()


def check_mask_key(requests: Sequence[ExtractionRequest], mask_key: bytes | None) -> None:
    """Raises ConfigurationError if a column is to be hashed and there is no key, before anything is journalled."""
    hashing = sorted({r.collection for r in requests if lacks_mask_key(r, mask_key)})
    if hashing:
        raise ConfigurationError(
            f"{', '.join(hashing)}: a column is to be hashed, but there is no key for it: set KEEN_PIPELINE_MASK_KEY to a secret "
            "of your own; nothing was asked for"
        )
