"""What a service is started with: one frozen object, every number with its unit and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.mail import check_login
from keen_pipeline.settings import SmtpSettings, plain_url

MIB = 1024 * 1024


def _between(low: float, high: float, default: float | None) -> Any:
    """A number, or None, with its bounds."""
    return field(default=default, metadata={"bounds": (low, high)})


@dataclass(frozen=True)
class ServiceConfig:
    """Configuration of one embedded service; the bounds of each number stand at its field.

    `data`: the folder that holds everything; made if missing. `port` 0 means any free port.
    `project_id`, `read_key`, `write_key`, `master_key`: made once and kept in `<data>/credentials.json` if None.
    `public_url`: the address in results URLs and mails if a proxy stands in front of the service, None: the caller's own.
    `extraction_delay`: seconds an extraction rests before it starts, so that clients can be tested.
    `results_uri`: where results are kept; None: `<data>/results`, or the shared storage.
    `results_url_seconds`: lifetime of a signed results URL. `retention_seconds`: how long results and their records are kept.
    `max_concurrency`: extractions written at once. `max_queue`: extractions that may wait. `requests_per_minute`: per kind
    (extractions, queries); past it every request of the kind is refused for a minute; None: off.
    `max_extraction_events`: an extraction of more is refused; None: no limit. `max_sync_events`: of a synchronous v3.0 extraction.
    `max_body_bytes`: of a request. `max_event_bytes`: of one event, at most `max_body_bytes`. `memory_mib`: DuckDB's memory; with
    it grows `max_properties`, the properties that a collection may have. `query_seconds`: a query is cancelled after it.
    `fail_extractions`: fault for tests; `{"purchases@2026-01-05": 3}` lets the next three extractions of that collection
    whose timeframe starts then end `failed` (`{"purchases": 3}`: whatever the timeframe).
    `idle_exit_seconds`: stop after that long without requests and open extractions; None: never.
    `stop_with_stdin`: stop when standard input ends, so that a child dies with its parent; with its last user if it has others.
    `catalogue_url`, `storage_uri`: a PostgreSQL database and the root of an object store, which several processes share; both or
    none. Then `data` holds nothing that can't be made again, `lease_seconds` is how long the work of a process that died is left
    alone, `fold_seconds` how long events rest in the catalogue before they go to the storage, `replaced_seconds` how long a file is
    kept there that was replaced, so that readers, and an older backup of the catalogue, find it, and `cache_mib` how much of the
    storage is kept in `data` as well.
    `max_parameter_bytes`: of one parameter of a query as JSON, filters too. `max_answer_bytes`: of the events of a synchronous
    answer, and of the filters echoed in one list. `max_list`: extractions in one list, those that are open and the newest first.
    `pending_body_mib`: of the bodies of all open requests together. `max_connections`: open at once, also bounded by half of the
    descriptors. `head_seconds`: for a whole request line and headers; `stalled_seconds`: for a body or a reader that does not move
    on. `redirect_hosts`: hosts that the image beacon may redirect to. `mail_to`: the addresses and domains that mail may go to;
    empty: any. `mails_per_minute`: extractions with an address that are taken in a minute; None: no limit.

    Raises ConfigurationError naming the value that is out of its bounds.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = _between(0, 65535, 8765)
    project_id: str | None = None
    read_key: str | None = field(default=None, repr=False)
    write_key: str | None = field(default=None, repr=False)
    master_key: str | None = field(default=None, repr=False)
    public_url: str | None = None
    extraction_delay: float = _between(0, 86400, 0.0)
    results_uri: str | None = None
    results_url_seconds: float = _between(1, 7 * 86400, 3600)
    retention_seconds: float = _between(1, 10 * 366 * 86400, 7 * 86400)
    max_concurrency: int = _between(1, 64, 2)
    max_queue: int = _between(1, 1_000_000, 10_000)
    requests_per_minute: int | None = _between(1, 1_000_000, None)
    max_extraction_events: int | None = _between(1, 10**12, None)
    max_sync_events: int = _between(1, 10_000_000, 100_000)
    max_body_bytes: int = _between(1024, 1024 * MIB, 10 * MIB)
    max_event_bytes: int = _between(1, 1024 * MIB, 900_000)
    memory_mib: int = _between(128, 1_048_576, 512)
    query_seconds: float = _between(1, 3600, 300)
    smtp: SmtpSettings | None = None
    fail_extractions: Mapping[str, int] = field(default_factory=dict, hash=False)
    idle_exit_seconds: float | None = _between(1, 86400, None)
    stop_with_stdin: bool = False
    catalogue_url: str | None = field(default=None, repr=False)
    storage_uri: str | None = None
    lease_seconds: float = _between(1, 3600, 30)
    fold_seconds: float = _between(0.1, 3600, 30)
    replaced_seconds: float = _between(1, 31 * 86400, 48 * 3600)
    cache_mib: int = _between(64, 1_048_576, 10_240)
    max_parameter_bytes: int = _between(256, MIB, 64 * 1024)
    max_answer_bytes: int = _between(64 * 1024, 1024 * MIB, 64 * MIB)
    max_list: int = _between(1, 100_000, 20_000)
    pending_body_mib: int = _between(16, 65_536, 128)
    max_connections: int = _between(8, 65_536, 1000)
    max_connections_per_address: int = _between(1, 65_536, 500)
    head_seconds: float = _between(0.1, 600, 10)
    stalled_seconds: float = _between(1, 3600, 30)
    redirect_hosts: tuple[str, ...] = ()
    mail_to: tuple[str, ...] = ()
    mails_per_minute: int | None = _between(1, 100_000, 60)

    @property
    def listed(self) -> int:
        """Extractions in one list: `max_list`, or as many as may be open, since whoever waits for one must find it there.

        100,000 at most, whose statuses are some 45 MB.
        """
        return min(100_000, max(self.max_list, self.max_queue))

    @property
    def max_properties(self) -> int:
        """Of one collection: 160 with 128 MiB, 1,120 with 512 MiB, at most 5,000; an event that brings more is refused.

        DuckDB holds buffers for each column of what it writes: 1,300 of them failed with 256 MiB, 3,000 with 512 MiB, while 160
        and 2,000 passed with 128 and 512 MiB.
        """
        return min(5000, (self.memory_mib - 64) * 5 // 2)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", Path(self.data))
        object.__setattr__(self, "fail_extractions", dict(self.fail_extractions))
        if self.public_url is not None:
            object.__setattr__(self, "public_url", plain_url("service: --public-url", self.public_url))
        for one in fields(self):
            value = getattr(self, one.name)
            if "bounds" not in one.metadata or value is None:
                continue
            low, high = one.metadata["bounds"]
            high = self.max_body_bytes if one.name == "max_event_bytes" else high
            if not low <= value <= high:
                raise InvalidInputError(f"service: {one.name} must lie between {low:.10g} and {high:.10g}, not {value!r}")
        if self.smtp is not None:
            check_login(self.smtp)
        if (self.catalogue_url is None) != (self.storage_uri is None):
            raise InvalidInputError("service: --catalogue and --storage go together; give both, or neither for one data folder")
        if not self.host:
            raise InvalidInputError("service: --host is empty, which would be every address of this machine; 0.0.0.0 says so")
