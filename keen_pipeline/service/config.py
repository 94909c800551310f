"""What a service is started with: one frozen object, every number with its unit and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.mail import check_login
from keen_pipeline.settings import SmtpSettings

MIB = 1024 * 1024


@dataclass(frozen=True)
class ServiceConfig:
    """Configuration of one embedded service.

    `data`: the folder that holds everything; made where missing. `port` 0 means any free port (0 to 65535).
    `project_id`, `read_key`, `write_key`, `master_key`: made once and kept in `<data>/credentials.json` where None.
    `public_url`: the address in results URLs and mails where a proxy stands before the service, None: the caller's own.
    `extraction_delay`: seconds an extraction rests before it starts, so that clients can be tested (0 to 86400).
    `results_uri`: where results are kept; None: `<data>/results`, or the shared storage.
    `results_url_seconds`: lifetime of a signed results URL (1 to 604800). `retention_seconds`: how long results and their
    records are kept (1 to ten years). `max_concurrency`: extractions written at once (1 to 64). `max_queue`: extractions
    that may wait (1 to 1000000). `requests_per_minute`: per kind (extractions, queries); past it every request of the kind
    is refused for a minute; None: off (1 to 1000000). `max_extraction_events`: an extraction of more is refused; None: no limit.
    `max_sync_events`: of a synchronous v3.0 extraction (1 to 10000000). `max_body_bytes`: of a request (1 KiB to 1 GiB).
    `max_event_bytes`: of one event (1 to max_body_bytes). `memory_mib`: DuckDB's memory (128 to 1048576); with it grows
    `max_properties`, the properties that a collection may have.
    `query_seconds`: a query is cancelled after it (1 to 3600).
    `fail_extractions`: fault for tests; `{"purchases@2026-01-05": 3}` lets the next three extractions of that collection
    whose timeframe starts then end `failed` (`{"purchases": 3}`: whatever the timeframe).
    `idle_exit_seconds`: stop after that long without requests and open extractions; None: never (1 to 86400).
    `catalogue_url`, `storage_uri`: a PostgreSQL database and the root of an object store, which several processes share; both or
    none. Then `data` holds nothing that can't be made again, `lease_seconds` is how long the work of a process that died is left
    alone (1 to 3600), `fold_seconds` how long events rest in the catalogue before they go to the storage (0.1 to 3600),
    `replaced_seconds` how long a file is kept there that was replaced, so that readers, and an older backup of the catalogue, find
    it (1 to 2678400), and `cache_mib` how much of the storage is kept in `data` as well (64 to 1048576).
    `max_parameter_bytes`: of one parameter of a query as JSON, filters too (256 to 1 MiB). `max_answer_bytes`: of the events of a
    synchronous answer, and of the filters echoed in one list (64 KiB to 1 GiB). `max_list`: extractions in one list, those that are
    open and the newest first (1 to 100000). `pending_body_mib`: of the bodies of all open requests together (16 to 65536).
    `max_connections`: open at once, also bounded by half of the descriptors (8 to 65536); `max_connections_per_address` (1 to
    65536). `head_seconds`: for a whole request line and headers (0.1 to 600); `stalled_seconds`: for a body or a reader that does
    not move on (1 to 3600).
    `redirect_hosts`: hosts that the image beacon may redirect to. `mail_to`: the addresses and domains that mail may go to; empty:
    any. `mails_per_minute`: extractions with an address that are taken in a minute; None: no limit (1 to 100000).
    `stop_with_stdin`: stop when standard input ends, so that a child dies with its parent.

    Raises ConfigurationError naming the value that is out of its bounds.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8765
    project_id: str | None = None
    read_key: str | None = field(default=None, repr=False)
    write_key: str | None = field(default=None, repr=False)
    master_key: str | None = field(default=None, repr=False)
    public_url: str | None = None
    extraction_delay: float = 0.0
    results_uri: str | None = None
    results_url_seconds: float = 3600
    retention_seconds: float = 7 * 86400
    max_concurrency: int = 2
    max_queue: int = 10_000
    requests_per_minute: int | None = None
    max_extraction_events: int | None = None
    max_sync_events: int = 100_000
    max_body_bytes: int = 10 * MIB
    max_event_bytes: int = 900_000
    memory_mib: int = 512
    query_seconds: float = 300
    smtp: SmtpSettings | None = None
    fail_extractions: Mapping[str, int] = field(default_factory=dict, hash=False)
    idle_exit_seconds: float | None = None
    stop_with_stdin: bool = False
    catalogue_url: str | None = field(default=None, repr=False)
    storage_uri: str | None = None
    lease_seconds: float = 30
    fold_seconds: float = 30
    replaced_seconds: float = 48 * 3600
    cache_mib: int = 10_240
    max_parameter_bytes: int = 64 * 1024
    max_answer_bytes: int = 64 * MIB
    max_list: int = 20_000
    pending_body_mib: int = 128
    max_connections: int = 1000
    max_connections_per_address: int = 500
    head_seconds: float = 10
    stalled_seconds: float = 30
    redirect_hosts: tuple[str, ...] = ()
    mail_to: tuple[str, ...] = ()
    mails_per_minute: int | None = 60

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
        bounds: dict[str, tuple[float, float]] = {
            "port": (0, 65535),
            "extraction_delay": (0, 86400),
            "results_url_seconds": (1, 604_800),
            "retention_seconds": (1, 10 * 366 * 86400),
            "max_concurrency": (1, 64),
            "max_queue": (1, 1_000_000),
            "requests_per_minute": (1, 1_000_000),
            "max_extraction_events": (1, 10**12),
            "max_sync_events": (1, 10_000_000),
            "max_body_bytes": (1024, 1024 * MIB),
            "max_event_bytes": (1, self.max_body_bytes),
            "memory_mib": (128, 1_048_576),
            "query_seconds": (1, 3600),
            "idle_exit_seconds": (1, 86400),
            "lease_seconds": (1, 3600),
            "fold_seconds": (0.1, 3600),
            "replaced_seconds": (1, 31 * 86400),
            "cache_mib": (64, 1_048_576),
            "max_parameter_bytes": (256, MIB),
            "max_answer_bytes": (64 * 1024, 1024 * MIB),
            "max_list": (1, 100_000),
            "pending_body_mib": (16, 65_536),
            "max_connections": (8, 65_536),
            "max_connections_per_address": (1, 65_536),
            "head_seconds": (0.1, 600),
            "stalled_seconds": (1, 3600),
            "mails_per_minute": (1, 100_000),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigurationError(f"service: {name} must lie between {low:g} and {high:g}, not {value!r}")
        if self.smtp is not None:
            check_login(self.smtp)
        if (self.catalogue_url is None) != (self.storage_uri is None):
            raise ConfigurationError("service: --catalogue and --storage go together; give both, or neither for one data folder")
