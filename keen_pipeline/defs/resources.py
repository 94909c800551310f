"""Resources that abstract the Keen API, the ledger and the destination storage. An unset field is the environment's."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from keen_pipeline.landing import FileDestination
from keen_pipeline.pipeline import Pipeline
from keen_pipeline.pipeline.adapters import CALL_SECONDS, limits_of, open_client, open_destination, open_ledger
from keen_pipeline.settings import Settings

if TYPE_CHECKING:
    # What they bring, urllib3 and SQLAlchemy, a code location needs once it opens them.
    from keen_pipeline.client import KeenClient
    from keen_pipeline.ledger import SqlLedger


def _overridden(settings: Settings, **values: Any) -> Settings:
    return replace(settings, **{name: value for name, value in values.items() if value is not None})


class KeenResource(dg.ConfigurableResource["KeenClient"]):
    """Keen's Data Extraction API. Without any field: `KEEN_BASE_URL`, `KEEN_PROJECT_ID`, `KEEN_READ_KEY`, ... of the
    environment, or the embedded service where `KEEN_BASE_URL` is unset. Give keys as `dg.EnvVar`, so that the UI shows names.
    """

    base_url: str | None = Field(default=None, description="API root; unset: KEEN_BASE_URL, or the embedded service")
    project_id: str | None = Field(default=None, description="unset: KEEN_PROJECT_ID")
    read_key: str | None = Field(default=None, description="unset: KEEN_READ_KEY", repr=False)
    api_version: str | None = Field(default=None, description="2.0 or 3.0; unset: KEEN_API_VERSION")
    requests_per_minute: int | None = Field(default=None, ge=1, le=100_000, description="unset: KEEN_PIPELINE_REQUESTS_PER_MINUTE")
    max_attempts: int | None = Field(default=None, ge=1, le=100, description="unset: KEEN_PIPELINE_MAX_ATTEMPTS")
    retry_seconds: float | None = Field(default=None, ge=0, le=600, description="unset: KEEN_PIPELINE_RETRY_SECONDS")
    poll_seconds: float | None = Field(default=None, ge=0.05, le=3600, description="unset: KEEN_PIPELINE_POLL_SECONDS")

    def settings(self) -> Settings:
        """The environment with this resource's fields over it. Raises ConfigurationError naming a wrong variable."""
        names = (
            "base_url",
            "project_id",
            "read_key",
            "api_version",
            "requests_per_minute",
            "max_attempts",
            "retry_seconds",
            "poll_seconds",
        )
        return _overridden(Settings.from_environment(), **{name: getattr(self, name) for name in names})

    def client(self, ledger: "SqlLedger | None" = None, *, total_timeout: float = CALL_SECONDS) -> "KeenClient":
        """A client; its requests count against the budget of `ledger`, a call with its repetitions takes `total_timeout` s."""
        return open_client(self.settings(), ledger, total_timeout=total_timeout)


class ExtractionLedger(dg.ConfigurableResource["SqlLedger"]):
    """The durable history of extractions. Without a field: `KEEN_PIPELINE_LEDGER_URL`."""

    url: str | None = Field(default=None, description="SQLAlchemy URL; unset: KEEN_PIPELINE_LEDGER_URL", repr=False)

    def open(self) -> "SqlLedger":
        """The ledger, migrated; opened once a process."""
        return open_ledger(self.url or Settings.from_environment().ledger_url)


class CsvDestination(dg.ConfigurableResource[FileDestination]):
    """Where files land. Without fields: `KEEN_PIPELINE_DESTINATION` and `KEEN_PIPELINE_DESTINATION_OPTIONS`.

    Keys and passwords come from the environment alone, by the names that `keen_pipeline.landing.storages.options` tells.
    """

    uri: str | None = Field(
        default=None, description="a folder, or an s3://, gs://, azure:// or sftp:// URI; unset: KEEN_PIPELINE_DESTINATION"
    )
    options: dict[str, str] | None = Field(
        default=None,
        description="transport options such as endpoint; unset without `uri`: KEEN_PIPELINE_DESTINATION_OPTIONS",
    )

    def open(self) -> FileDestination:
        """The destination. Raises ConfigurationError for a scheme or an option it can't serve."""
        settings = Settings.from_environment()
        if self.uri is None:
            return open_destination(settings.destination, settings.destination_options if self.options is None else self.options)
        return open_destination(self.uri, self.options or {})


def build_pipeline(
    keen: KeenResource, ledger: ExtractionLedger, destination: CsvDestination, *, call_seconds: float = CALL_SECONDS
) -> Pipeline:
    """The use cases' context of the three resources; one API call takes at most `call_seconds`."""
    settings, book = keen.settings(), ledger.open()
    return Pipeline(
        api=keen.client(book, total_timeout=call_seconds),
        ledger=book,
        destination=destination.open(),
        limits=limits_of(settings),
        poll_seconds=settings.poll_seconds,
        mask_key=settings.mask_key,
    )
