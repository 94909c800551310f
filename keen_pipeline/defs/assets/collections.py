"""CSV assets: a step for each collection; a range of partitions is one run that submits, waits by list calls and lands."""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from keen_pipeline.collection import Collection
from keen_pipeline.collections_file import check_collections
from keen_pipeline.defs.assets.run import CsvAssetConfig, run_assets
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.partitions import grain
from keen_pipeline.defs.reports.checks import check_specs
from keen_pipeline.defs.translator import KeenTranslator, specs_of
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.landing.transfer.encode import check_encoding
from keen_pipeline.scope import DEFAULT_NAME

_LONGEST_NAME = 500  # longer than that of any one collection
_Body = Callable[..., Iterator[Any]]


def keen_assets(
    *,
    collections: Sequence[Collection],
    name: str = DEFAULT_NAME,
    translator: KeenTranslator | None = None,
    partitions_per_run: int | None = None,
    pool: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    hooks: set[dg.HookDefinition] | None = None,
    op_tags: Mapping[str, Any] | None = None,
) -> Callable[[_Body], dg.AssetsDefinition]:
    """Make a function over `yield from keen.run(context)` the assets of some collections, landed by one step.

    `name`: of the definitions, whose resources `{name}`, `{name}_ledger` and `{name}_destination` the step needs.
    `translator`: makes their specs.
    `partitions_per_run`: a backfill of a longer range is cut into runs of so many, None: it is one run.
    `pool`, `retry_policy`, `hooks`, `op_tags`: of the step, as Dagster's own decorators take them.

    Collections of one step need the same granularity and time zone. Raises InvalidInputError if they differ, or if two of them
    would be one asset, ConfigurationError for an encoding's extra.

    >>> import dagster as dg
    >>> from keen_pipeline import Collection, KeenResource, keen_assets
    >>> @keen_assets(collections=[Collection(name="purchases", start_date="2026-01-01")])
    ... def purchases(context: dg.AssetExecutionContext, keen: KeenResource):
    ...     yield from keen.run(context)
    >>> purchases.key.to_user_string()
    'keen/purchases'
    """
    check_collections(collections)
    if not collections:
        raise InvalidInputError("keen_assets: name at least one collection", field="collections")
    if len({grain(c) for c in collections}) > 1:
        raise InvalidInputError(
            "keen_assets: collections of one step need the same granularity and time zone; make another step for the others",
            field="collections",
        )
    _check_encodings(collections)
    specs = specs_of(translator or KeenTranslator(), collections, name)
    options: dict[str, Any] = {"pool": pool, "retry_policy": retry_policy, "hooks": hooks}
    return lambda body: _step(body, collections, specs, Names(name), partitions_per_run, op_tags, **options)


def collection_assets(
    collections: Sequence[Collection],
    specs: Mapping[str, dg.AssetSpec],
    names: Names,
    per_run: int | None,
    op_tags: Mapping[str, Any] | None,
    execute: Callable[[dg.AssetExecutionContext], Iterator[Any]] = run_assets,
    **options: Any,
) -> list[dg.AssetsDefinition]:
    """The assets of all collections, a step for each. `execute`: what a step does. `options`: of `multi_asset`."""

    def land(context: dg.AssetExecutionContext, config: CsvAssetConfig) -> Iterator[Any]:
        yield from execute(context)

    _check_encodings(collections)
    return [_step(land, [collection], specs, names, per_run, op_tags, **options) for collection in collections]


def _check_encodings(collections: Sequence[Collection]) -> None:
    # Each once: a code location with hundreds of collections would look for the same package as often.
    for encoding in {collection.encoding for collection in collections}:
        check_encoding(encoding)


def _step(
    body: _Body,
    collections: Sequence[Collection],
    specs: Mapping[str, dg.AssetSpec],
    names: Names,
    per_run: int | None,
    op_tags: Mapping[str, Any] | None,
    **options: Any,
) -> dg.AssetsDefinition:
    run, asked = _with_resources(body)
    return dg.multi_asset(
        name=_step_name(names, collections),
        specs=[specs[c.name] for c in collections],
        check_specs=[check for c in collections for check in check_specs(c, specs[c.name])],
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run() if per_run is None else dg.BackfillPolicy.multi_run(per_run),
        op_tags={key: value for c in collections for key, value in c.run_tags.items()} | dict(op_tags or {}),
        required_resource_keys=names.resources | asked,
        description=f"Extracts {', '.join(c.name for c in collections)} over a range of partitions in one run.",
        **options,
    )(run)


def _step_name(names: Names, collections: Sequence[Collection]) -> str:
    """Those of the collections' own steps together, within what Dagster's index on PostgreSQL takes."""
    name = "__".join(names.step(c.name) for c in collections)
    short = f"{name[:_LONGEST_NAME]}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return name if len(name) <= _LONGEST_NAME else short


def _with_resources(body: _Body) -> tuple[_Body, set[str]]:
    """`body` as Dagster takes it, and the resources it asks for by its parameters.

    Dagster refuses a step that asks for resources in two ways, and those of the definitions are asked for by their names.
    """
    context, *others = inspect.signature(body, eval_str=True).parameters.values()
    asked = {one.name for one in others if one.name != "config"}

    def step(context: dg.AssetExecutionContext, **config: Any) -> Iterator[Any]:
        yield from body(context, **config, **{name: getattr(context.resources, name) for name in asked})

    step.__signature__ = inspect.Signature([context, *(one for one in others if one.name == "config")])  # type: ignore[attr-defined]
    return step, asked
