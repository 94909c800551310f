"""Resources that abstract the Keen API, the ledger and the destination storage. An unset field is the environment's."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import dagster as dg
from pydantic import BeforeValidator, Field

from keen_pipeline import wiring
from keen_pipeline.defs.names import Names
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing import FileDestination
from keen_pipeline.scope import Scope
from keen_pipeline.settings import KEEN_URL, VARIABLES, Settings
from keen_pipeline.wiring import CALL_SECONDS, open_client, open_destination, open_ledger, scope_of, warn_of_unknown

if TYPE_CHECKING:
    # What they bring, urllib3 and SQLAlchemy, a code location needs once it opens them.
    from keen_pipeline.client import KeenClient
    from keen_pipeline.ledger import SqlLedger
    from keen_pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    Seconds = float
else:
    # Dagster reads whole numbers and texts from the environment, no others: as a text it takes a dg.EnvVar as well.
    Seconds = Annotated[str, BeforeValidator(lambda given: given if given is None or isinstance(given, str) else f"{given}")]

_FIELDS = {variable.field: variable for variable in VARIABLES}


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a resource as settings, without those that are None. Raises ConfigurationError naming a wrong one.

    Bounds are checked when a dg.EnvVar has become its value, not before.
    """
    values = {name: value for name, value in given.items() if value is not None}
    return {name: _FIELDS[name].parse(f"resource field {name}", str(value).strip()) for name, value in values.items()}


def resolved(value: Any, where: str) -> Any:
    """A value, or that of the variable it stands for: if a field takes anything, Dagster leaves a `dg.EnvVar` as its name.

    Raises ConfigurationError if the variable is not set.
    """
    if not (isinstance(value, Mapping) and set(value) == {"env"}):
        return value
    found = os.environ.get(value["env"], "").strip()
    if not found:
        raise ConfigurationError(f"{where}: the variable {value['env']} is not set")
    return found


class KeenResource(dg.ConfigurableResource["KeenClient"]):
    """Keen's Data Extraction API. Without any field: `KEEN_BASE_URL`, `KEEN_PROJECT_ID`, `KEEN_READ_KEY`, ... of the
    environment, or the embedded service if none of them is set. Give keys as `dg.EnvVar`, so that the UI shows names.
    """

    base_url: str | None = Field(default=None, description="API root; unset: KEEN_BASE_URL, or Keen's own with a project or key")
    project_id: str | None = Field(default=None, description="unset: KEEN_PROJECT_ID")
    read_key: str | None = Field(default=None, description="unset: KEEN_READ_KEY", repr=False)
    api_version: str | None = Field(default=None, description="2.0 or 3.0; unset: KEEN_API_VERSION")
    requests_per_minute: int | None = Field(default=None, description="1 to 100000; unset: KEEN_PIPELINE_REQUESTS_PER_MINUTE")
    budget: str | None = Field(default=None, description="projects with this in common share their requests a minute")
    max_attempts: int | None = Field(default=None, description="1 to 100; unset: KEEN_PIPELINE_MAX_ATTEMPTS")
    retry_seconds: Seconds | None = Field(default=None, description="0 to 600; unset: KEEN_PIPELINE_RETRY_SECONDS")
    poll_seconds: Seconds | None = Field(default=None, description="0.05 to 3600; unset: KEEN_PIPELINE_POLL_SECONDS")
    lease_seconds: Seconds | None = Field(default=None, description="2 to 86400; unset: KEEN_PIPELINE_LEASE_SECONDS")

    def settings(self) -> Settings:
        """The environment with this resource's fields over it. Raises ConfigurationError naming a wrong field or variable."""
        values = checked({name: getattr(self, name) for name in _OWN})
        settings = Settings.from_environment()
        warn_of_unknown(settings.unknown)
        if settings.base_url is None and ("project_id" in values or "read_key" in values):
            values.setdefault("base_url", KEEN_URL)
        return replace(settings, **values)

    def client(self, ledger: "SqlLedger | None" = None, *, total_timeout: float = CALL_SECONDS) -> "KeenClient":
        """A client; its requests count for the budget in `ledger`, a call with its repetitions takes `total_timeout` s."""
        return open_client(self.settings(), ledger, total_timeout=total_timeout)

    def run(self, context: dg.AssetExecutionContext) -> Iterator[Any]:
        """Submit, wait for and land the selected partitions of the assets of `@keen_assets`; yields Dagster's events.

        Each partition's materialization goes out as it lands, its checks follow; at the end it raises Failure naming what failed.
        """
        from keen_pipeline.defs.assets.run import run_assets

        return run_assets(context)


_OWN = tuple(name for name in KeenResource.model_fields if name in _FIELDS)


class ExtractionLedger(dg.ConfigurableResource["SqlLedger"]):
    """The durable history of extractions. Without a field: `KEEN_PIPELINE_LEDGER_URL`."""

    url: str | None = Field(default=None, description="SQLAlchemy URL; unset: KEEN_PIPELINE_LEDGER_URL", repr=False)

    def open(self, scope: Scope) -> "SqlLedger":
        """The share of the ledger that belongs to a scope; migrated, and its database opened once a process."""
        return open_ledger((self.url or "").strip() or Settings.from_environment().ledger_url, scope)


class CsvDestination(dg.ConfigurableResource[FileDestination]):
    """Where files land. Without fields: `KEEN_PIPELINE_DESTINATION` and `KEEN_PIPELINE_DESTINATION_OPTIONS`.

    Keys and passwords come from the environment alone; `keen-pipeline docs destinations` has their names and the options.
    """

    uri: str | None = Field(
        default=None, description="a folder, or an s3://, gs://, azure:// or sftp:// URI; unset: KEEN_PIPELINE_DESTINATION"
    )
    options: dict[str, Any] | None = Field(
        default=None,
        description="transport options such as endpoint; unset without `uri`: KEEN_PIPELINE_DESTINATION_OPTIONS",
    )

    def open(self) -> FileDestination:
        """The destination. Raises ConfigurationError for a scheme or an option it can't serve."""
        settings = Settings.from_environment()
        options = {name: resolved(value, f"destination: option {name}") for name, value in (self.options or {}).items()}
        if self.uri is None:
            return open_destination(settings.destination, settings.destination_options if self.options is None else options)
        return open_destination(self.uri, options)


def open_scope(keen: KeenResource, ledger: ExtractionLedger, destination: CsvDestination, *, name: str) -> "SqlLedger":
    """The ledger's share of the three resources; nothing is asked of Keen. `name`: of the definitions."""
    return ledger.open(scope_of(replace(keen.settings(), name=name), destination.open().uri))


def pipeline_of(resources: Any, name: str, *, call_seconds: float = CALL_SECONDS) -> "Pipeline":
    """The use cases' context of the resources that a step or sensor has under the definitions' names.

    One API call takes at most `call_seconds`. Raises ConfigurationError.
    """
    keen, ledger, destination = adapters_of(resources, name)
    settings, place = replace(keen.settings(), name=name), destination.open()
    share = ledger.open(scope_of(settings, place.uri))
    return wiring.pipeline_of(settings, keen.client(share, total_timeout=call_seconds), share, place)


def ledger_of(resources: Any, name: str) -> "SqlLedger":
    """The ledger's share alone; nothing is asked of Keen. Raises ConfigurationError."""
    return open_scope(*adapters_of(resources, name), name=name)


def adapters_of(resources: Any, name: str) -> tuple[KeenResource, ExtractionLedger, CsvDestination]:
    """The three resources that a step or sensor has under the definitions' names. Raises ConfigurationError if one is missing."""
    names = Names(name)
    try:
        return getattr(resources, name), getattr(resources, names.ledger), getattr(resources, names.destination)
    except AttributeError as error:
        raise ConfigurationError(
            f"the resources {', '.join(sorted(names.resources))} are needed: build_keen_definitions(..., name={name!r}) has them"
        ) from error
