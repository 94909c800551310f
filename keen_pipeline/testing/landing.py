"""Landed partitions made of literal events: real files, proven and in a real ledger, without a service and within milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keen_pipeline.collection import Collection
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import ExtractionRequest, Landing
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.partitions import EVER, partition_for_key
from keen_pipeline.pipeline import partition_request
from keen_pipeline.pipeline.requests import check_mask_key
from keen_pipeline.readers import LandedReader
from keen_pipeline.scope import DEFAULT_NAME, Scope
from keen_pipeline.service.events.cells import quote
from keen_pipeline.service.events.properties import join_keys, v2_name
from keen_pipeline.service.events.values import encode_value
from keen_pipeline.settings import Settings
from keen_pipeline.timeframe import format_instant, parse_instant

if TYPE_CHECKING:
    import dagster as dg

    from keen_pipeline.defs.translator import KeenTranslator

_TIMESTAMP = "header:timestamp"
# By the first character of a value's JSON; of a number it is another.
_WORDS = {'"': "string", "t": "bool", "f": "bool", "n": "null", "[": "array", "{": "object"}
SOURCE = "projects/test"
"""Whose events the literal ones are."""
Event = Mapping[str, Any]


class KeenLanding:
    """A ledger in the folder `root`, and a destination in it unless another one is given, for tests of what stands downstream.

    `name`: of the definitions whose assets and resources they are.

    >>> from tempfile import mkdtemp
    >>> landing = KeenLanding(Path(mkdtemp()))
    >>> landing.land("purchases", {"2026-01-01": [{"amount": 5, "user": {"id": 2**60}}], "2026-01-02": []})["2026-01-01"].records
    1
    >>> landing.reader.uris("purchases", ["2026-01-02"])["2026-01-02"].endswith("/purchases/2026-01-02.csv")
    True
    """

    def __init__(self, root: str | Path, destination: FileDestination | None = None, *, name: str = DEFAULT_NAME) -> None:
        root = Path(root).resolve()  # whoever opens the resources names the files so
        root.mkdir(parents=True, exist_ok=True)
        self.destination = destination or FileDestination(str(root / "landing"))
        self.ledger_url = f"sqlite:///{root / 'ledger.db'}"
        self.ledger = SqlLedger(open_engine(self.ledger_url), Scope(SOURCE, self.destination.uri, name))
        self.reader = LandedReader(self.ledger, self.destination)
        self._collections: dict[str, Collection] = {}
        self._words: dict[str, dict[str, str]] = {}

    def land(
        self, collection: str | Collection, events: Mapping[str, Sequence[Event]], *, force: bool = False
    ) -> dict[str, Landing]:
        """Land events as Keen would extract them, by partition key; an empty list is a partition without events.

        `collection`: a name stands for a daily collection in UTC. An event is what one sends to Keen; without `keen.timestamp` it
        happens so many seconds after the partition's begin as its number says, or sooner if they are too many for it. Columns of
        the collection's mask are masked, its filters don't count. `force`: also over a partition that landed before.
        Raises InvalidInputError for a key that isn't a partition or an event outside of it, ConfigurationError if a column is to be
        hashed and there is no KEEN_PIPELINE_MASK_KEY.
        """
        # Of a name alone any day may come later, also one before those that are here.
        known = collection if isinstance(collection, Collection) else Collection(collection, "2000-01-02")
        self._collections[known.name] = known
        words = self._words.setdefault(known.name, {_TIMESTAMP: "datetime"})
        requests: dict[str, ExtractionRequest] = {}
        rows: dict[str, list[dict[str, Any]]] = {}
        mask_key = Settings.from_environment().mask_key
        for key, given in events.items():
            request = requests[key] = partition_request(known, partition_for_key(known, key, EVER), mask_key=mask_key)
            window = request.timeframe
            step = min(timedelta(seconds=1), (window.end - window.start) / max(1, len(given)))
            rows[key] = [_row(request, window.start + number * step, event) for number, event in enumerate(given)]
            for row in rows[key]:
                for name, value in row.items():
                    words[name] = _agreed(words.get(name), _word(name, value))
        check_mask_key(list(requests.values()), mask_key)
        return {key: self._land(requests[key], _csv(rows[key]), mask_key, force=force) for key in events}

    @property
    def resources(self) -> dict[str, Any]:
        """Dagster's resources for what has landed here; those that read it are `{name}_reader` and `{name}_io_manager`."""
        from keen_pipeline.defs.build import keen_resources
        from keen_pipeline.defs.names import Names
        from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource

        # Nothing listens there: readers ask Keen for nothing.
        nobody = KeenResource(base_url="http://127.0.0.1:9", project_id=SOURCE.removeprefix("projects/"))
        ledger, destination = ExtractionLedger(url=self.ledger_url), CsvDestination(uri=self.destination.uri)
        return keen_resources(Names(self.ledger.scope.name), nobody, ledger, destination)

    def materialize(
        self,
        *assets: dg.AssetsDefinition,
        partition_keys: str | Sequence[str] | None = None,
        resources: Mapping[str, Any] | None = None,
        translator: KeenTranslator | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run assets of yours on what has landed here, for one partition, a range given by its first and last, or without any.

        `resources`: those that your assets need besides the reader and the io manager. `translator`: that of your definitions, if
        your collections' assets have keys of their own.
        """
        import dagster as dg

        from keen_pipeline.defs.translator import KeenTranslator, specs_of

        collections = list(self._collections.values())
        upstream = list(specs_of(translator or KeenTranslator(), collections, self.ledger.scope.name).values())
        keys = [partition_keys] if isinstance(partition_keys, str) else list(partition_keys or [])
        tags = {}
        if len(keys) > 1:
            tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
        return dg.materialize(
            [*upstream, *assets],
            selection=list(assets),
            resources={**self.resources, **(resources or {})},
            partition_key=keys[0] if len(keys) == 1 else None,
            tags=tags,
        )

    def _land(self, request: ExtractionRequest, csv: bytes, mask_key: bytes | None, *, force: bool) -> Landing:
        """As a run does it: the intent, its extraction, the landing."""
        ledger = self.ledger
        [asked] = ledger.request([request], keep=lambda _: not force)
        if not asked.created:
            raise InvalidInputError(f"{request} has landed; use force=True to land it again", field="events")
        entry_id, extraction_id = asked.entry.entry_id, f"literal-{asked.entry.entry_id}"
        worker = ledger.workers.register("keen_landing")
        try:
            ledger.claim([entry_id], worker)
            ledger.posting(entry_id, worker)
            ledger.submitted(entry_id, worker, extraction_id)
            ledger.complete([entry_id], worker)
            landing = self.destination.land(
                LiteralResults(csv),
                self.destination.uri_of(request.path),
                extraction_id=extraction_id,
                types={name: word for name, word in self._words[request.collection].items() if name not in request.mask},
                mask=request.mask,
                mask_key=mask_key,
            )
            ledger.landed(entry_id, worker, landing)
        finally:
            ledger.workers.retire(worker)
        return landing


class LiteralResults:
    """A ResultsSource and its streams over bytes of this process."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def open(self, *, offset: int = 0, validator: str | None = None) -> LiteralStream:
        """The bytes from `offset` on."""
        return LiteralStream(self._body, offset)


class LiteralStream:
    """A ResultsStream over bytes."""

    validator: str | None = None
    encoding = "identity"

    def __init__(self, body: bytes, start: int) -> None:
        self._left = memoryview(body)[start:]
        self.start = start
        self.total: int | None = len(body)

    def readinto(self, buffer: memoryview) -> int:
        """Fill as much of `buffer` as there is; 0 at the end."""
        part = self._left[: len(buffer)]
        buffer[: len(part)] = part
        self._left = self._left[len(part) :]
        return len(part)

    def __enter__(self) -> LiteralStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._left.release()


def _row(request: ExtractionRequest, default: datetime, event: Event) -> dict[str, Any]:
    """A record of Keen's CSV: the value of each property by its column."""
    given = event.get("keen", {})
    if not isinstance(given, Mapping) or set(given) - {"timestamp"}:
        raise InvalidInputError(f"{request}: keen of an event can hold a timestamp only", field="events")
    window = request.timeframe
    moment = parse_instant(str(given["timestamp"])) if "timestamp" in given else default
    if not window.start <= moment < window.end:
        raise InvalidInputError(f"{request}: an event of {format_instant(moment)} does not lie in it", field="events")
    properties = {v2_name(join_keys(keys)): value for keys, value in _leaves([], {k: v for k, v in event.items() if k != "keen"})}
    return {_TIMESTAMP: moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"), **properties}


def _leaves(above: list[str], values: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves([*above, key], value)
        else:
            yield [*above, key], value


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """As Keen writes it: the timestamp first, and then the properties of these events, sorted."""
    columns = [_TIMESTAMP, *sorted({name for row in rows for name in row} - {_TIMESTAMP})]
    lines = [",".join(quote(name) for name in columns)]
    for row in rows:
        cells = (_field(row[name]) if name in row else "" for name in columns[1:])
        lines += [",".join([row[_TIMESTAMP], *cells])]
    return ("\n".join(lines) + "\n").encode()


def _field(value: object) -> str:
    """As the service writes it: strings in quotes, whatever else as its JSON."""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return quote(encode_value(value))


def _word(name: str, value: object) -> str:
    return "datetime" if name == _TIMESTAMP else _WORDS.get(encode_value(value)[0], "num")


def _agreed(one: str | None, other: str) -> str:
    if one is None or one in ("null", other):
        return other
    return one if other == "null" else "string"
