"""CSV assets: a step for each collection; a range of partitions is one run that submits, waits by list calls and lands."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from keen_pipeline.collection import Collection
from keen_pipeline.defs.checks import check_specs
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.run import CsvAssetConfig, run_assets
from keen_pipeline.defs.translator import KeenTranslator, specs_of
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.scope import DEFAULT_NAME

_Body = Callable[..., Iterator[Any]]


def keen_assets(
    *,
    collections: Sequence[Collection],
    name: str = DEFAULT_NAME,
    step_name: str | None = None,
    translator: KeenTranslator | None = None,
    partitions_per_run: int | None = None,
    pool: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    hooks: set[dg.HookDefinition] | None = None,
    op_tags: Mapping[str, Any] | None = None,
    together_with: Sequence[Collection] = (),
) -> Callable[[_Body], dg.AssetsDefinition]:
    """Make a function over `yield from keen.run(context)` the assets of some collections, landed by one step.

    `name`: of the definitions, whose resources `{name}`, `{name}_ledger` and `{name}_destination` the step needs.
    `step_name`: of the step, by default made of the collections' names.
    `translator`: makes their specs.
    `partitions_per_run`: a backfill of a longer range is cut into runs of so many, None: it is one run.
    `pool`, `retry_policy`, `hooks`, `op_tags`: of the step, as Dagster's own decorators take them.
    `together_with`: collections of other steps that shall be backfilled together with these; see `partitions_definition`.

    Collections of one step need the same granularity and time zone. Raises InvalidInputError if they differ, or if two of them
    would be one asset.

    >>> import dagster as dg
    >>> from keen_pipeline import Collection, KeenResource, keen_assets
    >>> @keen_assets(collections=[Collection(name="purchases", start_date="2026-01-01")])
    ... def purchases(context: dg.AssetExecutionContext, keen: KeenResource):
    ...     yield from keen.run(context)
    >>> purchases.key.to_user_string()
    'keen/purchases'
    """
    names = Names(name)
    if not collections:
        raise InvalidInputError("keen_assets: name at least one collection", field="collections")
    if len({(c.granularity, c.timezone) for c in collections}) > 1:
        raise InvalidInputError(
            "keen_assets: collections of one step need the same granularity and time zone; make another step for the others",
            field="collections",
        )
    others = {c.name: c for c in (*together_with, *collections)}
    specs = specs_of(translator or KeenTranslator(), list(others.values()), name)
    policy = dg.BackfillPolicy.single_run() if partitions_per_run is None else dg.BackfillPolicy.multi_run(partitions_per_run)
    tags = {key: value for collection in collections for key, value in collection.run_tags.items()} | dict(op_tags or {})

    def decorate(body: _Body) -> dg.AssetsDefinition:
        return dg.multi_asset(
            name=step_name or "__".join(names.step(c.name) for c in collections),
            specs=[specs[c.name] for c in collections],
            check_specs=[check for c in collections for check in check_specs(c, specs[c.name])],
            can_subset=True,
            backfill_policy=policy,
            op_tags=tags,
            hooks=hooks,
            pool=pool,
            retry_policy=retry_policy,
            required_resource_keys=names.resources,
            description=f"Extracts {', '.join(c.name for c in collections)} over a range of partitions in one run.",
        )(_with_resources(body, names.resources))

    return decorate


def _with_resources(body: _Body, keys: set[str]) -> _Body:
    """`body` with those of its parameters that are our resources taken from the context.

    Dagster wants all resources of a step either as parameters or as keys, and a step of ours needs more than the body asks for.
    """
    import inspect
    from typing import get_type_hints

    signature = inspect.signature(body)
    asked = [name for name in signature.parameters if name in keys]
    if not asked:
        return body

    def run(context: dg.AssetExecutionContext, **others: Any) -> Iterator[Any]:
        yield from body(context, **{name: getattr(context.resources, name) for name in asked}, **others)

    left = {name: one for name, one in signature.parameters.items() if name not in asked}
    hints = get_type_hints(body)
    run.__signature__ = signature.replace(parameters=list(left.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: hints[name] for name in left if name in hints}
    run.__doc__ = body.__doc__
    return run


def collection_assets(
    collections: Sequence[Collection],
    *,
    name: str = DEFAULT_NAME,
    translator: KeenTranslator | None = None,
    partitions_per_run: int | None = None,
    pool: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    hooks: set[dg.HookDefinition] | None = None,
    op_tags: Mapping[str, Any] | None = None,
    execute: Callable[[dg.AssetExecutionContext], Iterator[Any]] | None = None,
) -> list[dg.AssetsDefinition]:
    """The assets of all collections, a step for each; those of one granularity and zone are backfilled together.

    `execute`: what a step does, by default `keen.run(context)`. The others are as those of `keen_assets`.
    """
    run = execute or (lambda context: run_assets(context, getattr(context.resources, name)))
    made = []
    for collection in collections:

        def land(context: dg.AssetExecutionContext, config: CsvAssetConfig) -> Iterator[Any]:
            yield from run(context)

        decorate = keen_assets(
            collections=[collection],
            name=name,
            step_name=Names(name).step(collection.name),
            translator=translator,
            partitions_per_run=partitions_per_run,
            pool=pool,
            retry_policy=retry_policy,
            hooks=hooks,
            op_tags=op_tags,
            together_with=collections,
        )
        made.append(decorate(land))
    return made
