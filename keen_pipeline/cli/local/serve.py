"""`keen-pipeline serve`: the embedded service, until a signal."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import click

from keen_pipeline.errors import ConfigurationError, InvalidInputError, RetryableError, ServiceUnavailableError
from keen_pipeline.landing.storages.storage import normal_root, open_storage
from keen_pipeline.service import ServiceConfig, StorageError, serve
from keen_pipeline.settings import Settings

_CHUNK_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Port to listen on; 0: a free one.")
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Folder that holds everything. [default: ./data/keen]"
)
@click.option(
    "--catalogue",
    metavar="URL",
    help="PostgreSQL that several processes share, without its password. [default: KEEN_PIPELINE_SERVICE_CATALOGUE_URL]",
)
@click.option("--storage", metavar="URI", help="Where those keep events and results. [default: KEEN_PIPELINE_SERVICE_STORAGE]")
@click.option("--cache-mib", type=int, default=10_240, show_default=True, help="Of the storage, kept in the data folder as well.")
@click.option("--lease-seconds", type=float, default=30, show_default=True, help="How long a dead process's work is left alone.")
@click.option("--fold-seconds", type=float, default=30, show_default=True, help="How long events rest in the catalogue.")
@click.option(
    "--replaced-hours",
    type=float,
    default=48,
    show_default=True,
    help="How long replaced files stay in the storage; longer than between two backups of the catalogue.",
)
@click.option("--public-url", help="Address in results URLs and mails, if a proxy stands in front of the service.")
@click.option(
    "--results-uri",
    help="Where results are kept: a folder, s3://, gs://, azure:// or sftp://. [default: the data folder, or the storage]",
)
@click.option("--results-url-seconds", type=float, default=3600, show_default=True, help="Lifetime of a signed results URL.")
@click.option("--retention-days", type=float, default=7, show_default=True, help="How long results and their records are kept.")
@click.option("--max-concurrency", type=int, default=2, show_default=True, help="Extractions written at once.")
@click.option("--max-queue", type=int, default=10_000, show_default=True, help="Extractions that may wait; more get 429.")
@click.option("--max-extraction-events", type=int, help="Refuse extractions of more events. [default: no limit]")
@click.option("--max-body-mib", type=click.IntRange(1, 1024), default=10, show_default=True, help="Largest body of a request.")
@click.option("--memory-mib", type=int, default=512, show_default=True, help="Memory limit of DuckDB.")
@click.option("--mails-per-minute", type=int, default=60, show_default=True, help="Extractions by mail taken in a minute.")
@click.option("--max-connections", type=int, default=1000, show_default=True, help="Connections open at once.")
@click.option("--requests-per-minute", type=int, help="Refuse a kind of request for a minute past this. [default: off]")
@click.option("--extraction-delay", type=float, default=0, help="Seconds an extraction rests first, to test clients. [default: 0]")
@click.option(
    "--fail-extraction",
    "faults",
    multiple=True,
    metavar="COLLECTION[@DAY]=N",
    help="Let the next N extractions fail, to test clients.",
)
@click.option("--idle-exit", type=float, help="Stop after so many seconds without requests and open extractions.")
@click.option("--stop-with-stdin", is_flag=True, hidden=True)
def command(
    data: Path | None,
    catalogue: str | None,
    storage: str | None,
    replaced_hours: float,
    retention_days: float,
    max_body_mib: int,
    faults: tuple[str, ...],
    idle_exit: float | None,
    results_uri: str | None,
    **same: Any,
) -> None:
    """Serve Keen's Data Extraction API, v2.0 and v3.0, until Ctrl-C.

    Prints `listening on http://HOST:PORT` once it accepts, where its keys are, and on loopback a link that opens the page, in a
    terminal with the read key. The project and its keys come from KEEN_PROJECT_ID, KEEN_READ_KEY,
    KEEN_WRITE_KEY and KEEN_MASTER_KEY; if unset they are made once and kept in the data folder, in credentials.json. Mail goes
    out by SMTP_HOST, SMTP_PORT, SMTP_USER, SMTP_PASSWORD, SMTP_STARTTLS and SMTP_FROM (a password without TLS only with
    SMTP_INSECURE_LOGIN), to any address or to those of KEEN_PIPELINE_SERVICE_MAIL_TO. Image beacons redirect to the hosts of
    KEEN_PIPELINE_SERVICE_REDIRECT_HOSTS alone.

    With --catalogue and --storage any number of processes, each with a data folder of its own, are one service. The catalogue's
    password comes from KEEN_PIPELINE_SERVICE_CATALOGUE_URL, PGPASSWORD or ~/.pgpass, the storage's keys as for a destination.

    Example: keen-pipeline serve --port 8765 --data ./data/keen
    """
    settings = Settings.from_environment()
    storage_uri = storage if storage is not None else settings.service_storage
    try:
        catalogue_url = _without_password(catalogue) if catalogue is not None else settings.service_catalogue_url
        fail_extractions = dict(_fault(text) for text in faults)
        config = ServiceConfig(
            data=data if data is not None else settings.service_data,
            project_id=settings.project_id,
            read_key=settings.read_key,
            write_key=settings.write_key,
            master_key=settings.master_key,
            results_uri=results_uri,
            retention_seconds=retention_days * 86400,
            max_body_bytes=max_body_mib * 1024 * 1024,
            fail_extractions=fail_extractions,
            smtp=settings.smtp,
            idle_exit_seconds=idle_exit,
            catalogue_url=catalogue_url,
            storage_uri=storage_uri,
            replaced_seconds=replaced_hours * 3600,
            redirect_hosts=settings.service_redirect_hosts,
            mail_to=settings.service_mail_to,
            **same,  # the options that are called and counted as the configuration does
        )
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from None
    serve(config, *(StorageObjects(uri).prove() if uri is not None else None for uri in (storage_uri, results_uri)))


def _without_password(url: str) -> str:
    """The URL, as everybody on the machine may read it. Raises InvalidInputError if it has a password."""
    netloc, query = urlsplit(url).netloc, urlsplit(url).query
    if ":" in netloc.rpartition("@")[0] or "password" in query.lower():
        raise InvalidInputError(
            "--catalogue: a password on a command line is seen by everybody on the machine; give the URL in"
            " KEEN_PIPELINE_SERVICE_CATALOGUE_URL, or the password in PGPASSWORD or ~/.pgpass",
            field="--catalogue",
        )
    return url


def _fault(text: str) -> tuple[str, int]:
    key, _, number = text.rpartition("=")
    if not key or not number.isdigit() or not 1 <= int(number[:9]) <= 1_000_000:
        raise InvalidInputError(
            f"--fail-extraction {text!r}: expected COLLECTION=N or COLLECTION@YYYY-MM-DD=N", field="--fail-extraction"
        )
    return key, int(number)


class StorageObjects:
    """An `ObjectStore`, where the service keeps what isn't in its data folder: the storage below a root URI, one of the landing's.

    Raises ConfigurationError for one that no storage of ours is named by.
    """

    def __init__(self, uri: str) -> None:
        self._root = normal_root(uri)
        self._storage = open_storage(self._root, {})

    def prove(self) -> StorageObjects:
        """Itself. Raises ConfigurationError if nothing can be written, read and removed there."""
        probe = f"{self._root}/probe-{uuid.uuid4().hex}"
        self._storage.write(probe, b"keen_pipeline")
        with self._storage.open(probe) as file:
            if file.read() != b"keen_pipeline":
                raise ConfigurationError(f"service: {self._root} gives back different bytes than it was given")
        self._storage.remove(probe)
        return self

    def put(self, name: str, source: Path) -> None:
        target = f"{self._root}/{name}"
        with _own_errors(), source.open("rb") as file, self._storage.stage(target) as stage:
            while chunk := file.read(_CHUNK_BYTES):
                rest = memoryview(chunk)
                while rest:  # it is unbuffered, and may take less than it is given
                    rest = rest[stage.write(rest) :]
            self._storage.publish(stage, target)

    def open(self, name: str) -> BinaryIO:
        with _own_errors():
            return self._storage.open(f"{self._root}/{name}")

    def remove(self, name: str) -> None:
        with _own_errors():
            self._storage.remove(f"{self._root}/{name}")


@contextmanager
def _own_errors() -> Iterator[None]:
    """The words of a storage name its bucket or host, and are for whoever runs the service, not for who asks it."""
    try:
        yield
    except ConfigurationError as error:
        _log.error("the storage refuses", extra={"reason": str(error)})
        raise StorageError(
            "the service's storage refuses what it took when the service started; the service's log says why"
        ) from None
    except RetryableError as error:
        _log.warning("the storage is away", extra={"reason": str(error)})
        raise ServiceUnavailableError("the service's storage is away; ask again later", retry_after=error.retry_after) from None
