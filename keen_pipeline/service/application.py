"""Everything one running service consists of, put together once; the routes reach it as `request.app.state.service`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from email.message import EmailMessage
from typing import Any

import duckdb

from keen_pipeline.errors import ExtractionTooLargeError, InvalidInputError
from keen_pipeline.filters import AnyOf, Condition, Operator, parse_filters
from keen_pipeline.service.addresses import checked_email
from keen_pipeline.service.config import MIB, ServiceConfig
from keen_pipeline.service.events.incoming import Columns, EventEncoder, split_v2
from keen_pipeline.service.extractions.csv_export import Selection, count
from keen_pipeline.service.extractions.mail import Mailer, completion_message
from keen_pipeline.service.extractions.records import WHOLE, Extraction, Shape
from keen_pipeline.service.extractions.worker import ExtractionWorker
from keen_pipeline.service.limits import MAILS, ByteBudget
from keen_pipeline.service.metrics import Metrics
from keen_pipeline.service.storage.backend import open_backend
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.places import ObjectStore
from keen_pipeline.timeframe import UTC, Timeframe, resolve_timeframe

_log = logging.getLogger(__name__)


class Service:
    """Store, extractions and limits of one process. Methods block; routes call them from a thread pool.

    `local_url`: where this service can be reached from its own machine. `objects`, `results`: see `http.server.serve`.
    """

    def __init__(
        self, config: ServiceConfig, local_url: str, objects: ObjectStore | None = None, results: ObjectStore | None = None
    ) -> None:
        self.config = config
        self.local_url = local_url
        self.last_request = time.monotonic()
        self.open_requests = 0
        # A body that may be sent fits in at last.
        self.pending_bodies = ByteBudget(max(config.pending_body_mib * MIB, config.max_body_bytes))
        self.metrics = Metrics(self)
        self.engine = Engine(config.data, config.memory_mib, config.query_seconds)
        self.backend = open_backend(config, self.engine, objects, results)
        self.folder = config.data.stat().st_ino  # of this process: see `embedded.find`
        self.credentials = self.backend.credentials
        self.store, self.records, self.results = self.backend.store, self.backend.records, self.backend.results
        if config.smtp is not None and config.public_url is None:
            _log.warning("mails link to this machine's own address; give --public-url for others", extra={"url": local_url})
        self.mailer = Mailer(config.smtp, self.records, self._message, self.metrics.mails)
        self.worker = ExtractionWorker(
            self.store,
            self.engine,
            self.records,
            self.results,
            threads=config.max_concurrency,
            retention_seconds=config.retention_seconds,
            faults=config.fail_extractions,
            finished=self._finished,
        )

    def _finished(self, status: str, seconds: float, events: int) -> None:
        self.metrics.extraction_finished(status, seconds, events)
        self.mailer.wake()

    def _message(self, extraction: Extraction) -> EmailMessage:
        """The mail of a complete extraction; its link works as long as the result is kept."""
        base_url = self.config.public_url or self.local_url
        left = (extraction.finished or 0) + self.config.retention_seconds - self.records.now()
        url = self.results.url(base_url, extraction.id, gzip=extraction.shape.gzip, seconds=max(left, 0))
        return completion_message(extraction, url)

    def close(self) -> None:
        """Cancel what runs and close everything; what was cancelled is taken up at the next start."""
        self.cancel()
        self.worker.close()
        self.mailer.close()
        self.backend.close()

    def cancel(self) -> None:
        """Cancel what reads events, and begin no more of it."""
        self.backend.upkeep.stop()
        self.engine.close()

    def count_request(self, kind: str) -> None:
        """Count one request of a kind. Raises RateLimitedError past the configured limit of a minute."""
        limit = self.config.mails_per_minute if kind == MAILS else self.config.requests_per_minute
        if limit is not None:
            self.backend.count_request(kind, limit)

    def add_event(self, collection: str, event: object, *, version: str) -> None:
        """Store one event of the v2.0 or v3.0 form. Raises InvalidInputError."""
        (problem,) = self.add_events(collection, [event], version)
        if problem is not None:
            raise problem

    def add_events(self, collection: str, events: Sequence[object], version: str = "v3") -> list[InvalidInputError | None]:
        """Store the good ones of many events; returns what is wrong with each."""
        problems: list[InvalidInputError | None] = []

        def encode(columns: Columns) -> list[str]:
            problems.clear()  # a first append encodes twice
            encoder, lines = EventEncoder(columns, datetime.now(UTC), self.config.max_event_bytes), []
            for event in events:
                try:
                    lines.append(encoder.encode(*(split_v2(event) if version == "v2" else [event])))
                    problems.append(None)
                except InvalidInputError as error:
                    problems.append(error.with_traceback(None))  # which would hold the event
            return lines

        self.metrics.events.inc(self.store.append(collection, encode))
        return problems

    def window(self, parameters: Mapping[str, Any]) -> Timeframe | None:
        """The timeframe of a request, at this moment. Raises InvalidInputError."""
        zone, timeframe = _plain(parameters.get("timezone")), _plain(parameters.get("timeframe"))
        if isinstance(zone, float) and zone.is_integer():
            zone = int(zone)  # JSON does not tell 3600.0 from 3600
        return resolve_timeframe(timeframe, now=datetime.now(UTC), timezone=zone)

    def filters(self, parameters: Mapping[str, Any]) -> tuple[Condition, ...]:
        """The filters of a request. Raises InvalidInputError naming the culprit."""
        conditions = parse_filters(parameters.get("filters"))
        if conditions:
            with self.engine.query() as cursor:
                check_patterns(cursor, conditions, "filters")
        return conditions

    @contextmanager
    def select(self, collection: str, parameters: Mapping[str, Any], names: str = "v3") -> Iterator[Selection]:
        """The events that the filters and the timeframe of a request ask for, of all acknowledged so far.

        Raises NotFoundError, InvalidInputError, and then nothing of the block has run.
        """
        filters, timeframe = self.filters(parameters), self.window(parameters)
        with self.store.snapshot(collection) as snapshot:
            selection = Selection(snapshot, filters, timeframe, names)
            _ = selection.where  # compiled now, so that a filter that can't work is refused with the request
            yield selection

    @contextmanager
    def query(
        self, collection: str, parameters: Mapping[str, Any], names: str = "v3"
    ) -> Iterator[tuple[duckdb.DuckDBPyConnection, Selection]]:
        """The same, with a cursor that is bounded in time."""
        with self.select(collection, parameters, names) as selection, self.engine.query() as cursor:
            yield cursor, selection

    def create_extraction(self, collection: str, parameters: Mapping[str, Any], *, names: str, shape: Shape = WHOLE) -> Extraction:
        """Queue an extraction. Raises InvalidInputError, NotFoundError, ExtractionTooLargeError, RateLimitedError."""
        email = checked_email(parameters, self.config.mail_to)
        limit = self.config.max_extraction_events
        with self.select(collection, parameters, names) as selection:
            if limit is not None:
                with self.engine.query() as cursor:
                    events = min(count(cursor, selection), shape.latest or limit + 1)
                if events > limit:
                    raise ExtractionTooLargeError(
                        f"the extraction is too large: {events} events, the limit is {limit}; ask for a shorter timeframe"
                    )
        if email is not None:
            self.count_request(MAILS)
        made = self.records.create(
            collection,
            names=names,
            filters=selection.filters,
            timeframe=selection.timeframe,
            email=email,
            delay=self.config.extraction_delay,
            max_queue=self.config.max_queue,
            shape=shape,
        )
        if email is not None and self.config.smtp is None:
            _log.warning("a mail waits for a start with SMTP_HOST, as long as its result is kept", extra={"extraction": made.id})
        self.worker.wake()
        return made


def _plain(value: object) -> Any:
    """A timeframe or a time zone of a query string: clients send the empty text for none, and relative ones in JSON's quotes."""
    if isinstance(value, str) and len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return None if value == "" else value


def check_patterns(cursor: duckdb.DuckDBPyConnection, conditions: Sequence[Condition], field: str) -> None:
    """Raises InvalidInputError for a regular expression that RE2 does not take."""
    for index, condition in enumerate(conditions):
        if isinstance(condition, AnyOf):
            check_patterns(cursor, condition.operands, f"{field}[{index}].operands")
        elif condition.operator is Operator.REGEX:
            try:
                cursor.execute("SELECT regexp_matches('', ?)", [condition.property_value])
            except duckdb.Error:
                place = f"{field}[{index}].property_value"
                raise InvalidInputError(f"{place}: not a regular expression of the RE2 kind", field=place) from None
