"""The sample: three collections on the embedded service, and a downstream asset that reads the landed CSV with DuckDB."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from keen_pipeline.defs.build import build_keen_definitions
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.partitions import partitions_definition, when_landed
from keen_pipeline.defs.resources import KeenResource
from keen_pipeline.landing import FileDestination
from keen_pipeline.pipeline.sample import load_sample_events, sample_collections
from keen_pipeline.ports import SystemClock
from keen_pipeline.scope import DEFAULT_NAME
from keen_pipeline.wiring import CALL_SECONDS

if TYPE_CHECKING:
    from keen_pipeline.client import KeenClient
    from keen_pipeline.ledger import SqlLedger

COLLECTIONS = sample_collections()
PURCHASES = COLLECTIONS[0]


class SampleKeenResource(KeenResource):
    """The embedded service with sample events in it."""

    def client(self, ledger: "SqlLedger | None" = None, *, total_timeout: float = CALL_SECONDS) -> "KeenClient":
        """A client of a service that holds the sample up to yesterday."""
        client = super().client(ledger, total_timeout=total_timeout)
        load_sample_events(client, self.settings().service_data, SystemClock().now().date())
        return client


def daily_revenue(names: Names) -> dg.AssetsDefinition:
    """A downstream asset that reads each partition's file; the numbers are in the partition's metadata."""

    @dg.asset(
        name="daily_revenue",
        deps=[names.asset_key(PURCHASES.name)],
        required_resource_keys={names.destination},
        partitions_def=partitions_definition(PURCHASES, together_with=COLLECTIONS),
        backfill_policy=dg.BackfillPolicy.single_run(),
        # By eager() a first look counts all that landed before it as handled; on a slow machine the first night is over by then.
        automation_condition=when_landed().replace(
            "handled", dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
        )
        & dg.AutomationCondition.all_deps_blocking_checks_passed(),
        group_name=names.name,
        kinds={"duckdb"},
        description="Orders and revenue of a day by currency, from the landed CSV of that day.",
    )
    def asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        files = getattr(context.resources, names.destination).open()
        for key in context.partition_keys:
            revenue = _revenue(files, files.target_uri(PURCHASES.name, key))
            orders = sum(count for count, _ in revenue.values())
            table = "\n".join(
                [
                    "| currency | orders | revenue |",
                    "|---|---|---|",
                    *(f"| {c} | {n} | {total:.2f} |" for c, (n, total) in revenue.items()),
                ]
            )
            context.add_asset_metadata({"orders": orders, "revenue": dg.MetadataValue.md(table)}, partition_key=key)
        return dg.MaterializeResult()

    return asset


def _revenue(files: FileDestination, uri: str) -> dict[str, tuple[int, float]]:
    """Orders and revenue by currency; no purchase, no entry."""
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "purchases.csv"
        with files.open(uri) as source, local.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 18)
        events = duckdb.read_csv(str(local), all_varchar=True)
        if not {"body:currency", "body:amount"} <= set(events.columns):
            return {}
        rows = (
            events.aggregate('"body:currency" AS currency, count(*), sum(CAST("body:amount" AS DOUBLE))', '"body:currency"')
            .order("currency")
            .fetchall()
        )
    return {str(currency): (int(count), float(total)) for currency, count, total in rows}


def sample_definitions(name: str = DEFAULT_NAME) -> dg.Definitions:
    """What the code location holds if neither a Keen project nor a collections file is configured."""
    revenue = daily_revenue(Names(name))
    return dg.Definitions.merge(
        # A newcomer watches: ticks come three times as often as they need to.
        build_keen_definitions(
            COLLECTIONS,
            name=name,
            keen=SampleKeenResource(),
            sensor_interval_seconds=5,
            running=True,
            downstream=[revenue.key.to_user_string()],
        ),
        # A project of its own: short runs need no process for each step.
        dg.Definitions(assets=[revenue], executor=dg.in_process_executor),
    )
