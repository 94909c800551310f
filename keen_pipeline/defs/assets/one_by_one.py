"""One step over many partitions, each told as it is made; one that can't be made keeps no other."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.pipeline.told import MOST_LINES

# Dagster emits a materialization of every partition of the range for an output, beside those yielded by hand; with this
# key of its own in the output's metadata it doesn't. A test holds exactly one materialization per partition.
NO_SECOND_MATERIALIZATION = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}


def one_by_one(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    done: str,
    make: Callable[[str], Mapping[str, Any]],
    skips: type[KeenPipelineError] = KeenPipelineError,
) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
    """`make` each partition of the run, which answers its metadata. An error of the kind `skips` ends that partition alone.

    Raises Failure at the end if one was not `done`, as `loaded`.
    """
    failed: list[str] = []
    for partition in context.partition_keys:
        try:
            metadata = make(partition)
        except skips as error:
            context.log.error("%s", error)  # noqa: TRY400 - the message says it; a stack would tell nothing more
            failed.append(str(error))
        else:
            yield dg.AssetMaterialization(key, partition=partition, metadata=metadata)
    if failed:
        more = [f"and {len(failed) - MOST_LINES} more, see the log"] if len(failed) > MOST_LINES else []
        said = " | ".join([*failed[:MOST_LINES], *more])
        raise dg.Failure(f"{len(failed)} of {len(context.partition_keys)} partitions not {done}: {said}")
    yield dg.MaterializeResult(asset_key=key, metadata=NO_SECOND_MATERIALIZATION)
