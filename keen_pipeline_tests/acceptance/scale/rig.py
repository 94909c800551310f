"""A deployment profile on one machine: each of its hosts is a group of processes that knows the others by addresses alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import dagster as dg
import sqlalchemy as sa
import yaml

from keen_pipeline.cli.docs import PROFILES
from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.service import embedded
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_ledger, scope_of
from keen_pipeline_tests.acceptance.crash.rig import START, die_with_parent, end_all, load_events
from keen_pipeline_tests.servers.ports import free_port
from keen_pipeline_tests.servers.postgres import database, running_postgres
from keen_pipeline_tests.servers.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server, running_s3, s3_place
from keen_pipeline_tests.servers.valkey import PASSWORD, running_valkey

SERVICE, DAEMON = "service", "daemon"
# Modules of the code servers that the profiles' workspaces name.
CODE_SERVERS = {"keen": "keen_pipeline.definitions", "downstream": "keen_pipeline_tests.acceptance.downstream_definitions"}
START_SECONDS = 90.0
# The server trusts its socket and takes any.
POSTGRES_PASSWORD = "password-of-postgres-for-tests"


@dataclass(frozen=True)
class Ground:
    """What all sides stand on: PostgreSQL, the object store, the broker."""

    folder: Path
    postgres: str
    s3: S3Server
    broker: str


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """Started for the block's time."""
    with running_postgres() as postgres, running_s3(folder / "s3") as s3, running_valkey(folder / "broker") as broker:
        yield Ground(folder, postgres, s3, broker)


@dataclass
class Cluster:
    """One service, the code servers, the daemon and some Celery workers with one process each, as the profile configures them.

    `profile`: the profile's name. `over`: what is merged into its dagster.yaml. `number` tells clusters on one ground apart.
    Everything written lies in `folder`; each of the hosts has a DAGSTER_HOME of its own.
    """

    ground: Ground
    number: int
    names: Sequence[str]
    days: int
    workers: int
    partitions_per_run: int
    delay: float
    lease_seconds: float = 60.0
    profile: str = "celery"
    over: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = (PASSWORD, SECRET_KEY, POSTGRES_PASSWORD)

    def __enter__(self) -> Cluster:
        self._mark = f"keen-scale-{uuid.uuid4().hex}"
        self.folder = self.ground.folder / f"cluster-{self.number}"
        self.service_data = self.folder / "keen"
        self.collections = [Collection(name, START) for name in self.names]
        self.keys = {name: f"{name}-{uuid.uuid4().hex}" for name in ("read", "write", "master")}
        self.project = uuid.uuid4().hex[:24]
        self._profile = PROFILES / self.profile
        self._workspace = yaml.safe_load((self._profile / "workspace.yaml").read_text())
        self._code_ports = {server["grpc_server"]["location_name"]: free_port() for server in self._workspace["load_from"]}
        for server in self._workspace["load_from"]:
            server["grpc_server"]["port"] = self._code_ports[server["grpc_server"]["location_name"]]
        self.port = free_port()
        self.worker_names = [f"worker{n + 1}" for n in range(self.workers)]
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()
        try:
            self._start_all()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        end_all(self._mark)
        for child in self._children.values():
            child.wait()
        self._stack.close()

    @property
    def instance(self) -> dg.DagsterInstance:
        """Dagster's storage, as anybody sees it who has the database."""
        return self._instance

    def client(self) -> KeenClient:
        """A client of the service beside the pipeline's."""
        return KeenClient(f"http://127.0.0.1:{self.port}", self.project, read_key=self.keys["read"], write_key=self.keys["write"])

    def files(self) -> dict[str, bytes]:
        """Everything at the destination, by its path below it."""
        return s3_place(self.ground.s3, f"cluster-{self.number}").look()

    def broker_files(self) -> dict[str, bytes]:
        """What has passed the broker, as it has appended it to its own files."""
        found = sorted((self.ground.folder / "broker" / "appendonlydir").iterdir())
        return {f"the broker's {path.name}": path.read_bytes() for path in found}

    def run_output(self) -> dict[str, bytes]:
        """What runs have printed, as Dagster has stored it."""
        return {f"the output {name}": data for name, data in s3_place(self.ground.s3, "dagster-logs").look().items()}

    def database_rows(self) -> dict[str, bytes]:
        """Every row of Dagster's database and of the ledger, by its table."""
        found: dict[str, bytes] = {}
        for url in (self._dagster_url, sa.make_url(self._ledger_url)):
            engine = sa.create_engine(url)
            with engine.connect() as connection:
                for table in sa.inspect(connection).get_table_names():
                    rows = connection.execute(sa.text(f'SELECT t::text FROM "{table}" t')).scalars()
                    found[f"table {table}"] = "\n".join(rows).encode()
            engine.dispose()
        return found

    def check(self) -> None:
        """Whatever is not killed by us must live."""
        for name, child in self._children.items():
            assert child.poll() is None, f"{name} ended: {self.log(name)[-3000:]}"

    def log(self, name: str) -> str:
        """What a host has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill_host(self, name: str) -> None:
        """SIGKILL to all processes of a host, the way a power cut ends them; it does not come back."""
        end_all(self._host_mark(name))
        self._children.pop(name).wait()

    def worker_of(self, run_id: str) -> str | None:
        """The living worker whose log names the run's task; None where there is none."""
        run = self.instance.get_run_by_id(run_id)
        task = run.tags.get("dagster-celery/task_id") if run is not None else None
        return next((name for name in self.worker_names if name in self._children and task and task in self.log(name)), None)

    def _start_all(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "watch").mkdir()
        dagster_url = sa.make_url(self._stack.enter_context(database(self.ground.postgres, f"dagster_{self.number}")))
        self._dagster_url = dagster_url.set(drivername="postgresql+psycopg2")
        self._ledger_url = self._stack.enter_context(database(self.ground.postgres, f"ledger_{self.number}"))
        storage = {"postgres": {"postgres_url": self._dagster_url.render_as_string(hide_password=False)}}
        (self.folder / "watch" / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage, "telemetry": {"enabled": False}}))
        self._instance = self._stack.enter_context(dg.DagsterInstance.from_config(str(self.folder / "watch")))
        settings = Settings.from_environment(self._environment())
        self.ledger: SqlLedger = open_ledger(settings.ledger_url, scope_of(settings))
        self._stack.callback(self.ledger.engine.dispose)
        # No night falls into the test, whenever it is run.
        wanted = [{"name": c.name, "start_date": c.start.isoformat(), "cron": "0 0 29 2 *"} for c in self.collections]
        (self.folder / "collections.yaml").write_text(yaml.safe_dump({"collections": wanted}))
        dg_command, serve = [sys.executable, "-m"], ["keen_pipeline", "serve", "--data", str(self.service_data)]
        self._start(SERVICE, [*dg_command, *serve, "--port", str(self.port), "--extraction-delay", str(self.delay)])
        self._await(SERVICE, lambda: embedded.find(self.service_data) is not None)
        with self.client() as client:
            load_events(client, self.names, self.days)
        for name, port in self._code_ports.items():
            code = ["dagster", "code-server", "start", "-h", "127.0.0.1", "-p", str(port), "--location-name", name]
            self._start(name, [*dg_command, *code, "-m", CODE_SERVERS[name]])
        for name in self.worker_names:
            celery = ["celery", "-A", "dagster_celery.app", "worker", "-Q", "dagster", "-c", "1", "-n", f"{name}@%h", "-l", "INFO"]
            self._start(name, [*dg_command, *celery])
        for name in self._code_ports:
            self._await(name, lambda name=name: "Started Dagster code proxy server" in self.log(name))  # type: ignore[misc]
        for name in self.worker_names:
            self._await(name, lambda name=name: f"{name}@" in self.log(name) and " ready." in self.log(name))  # type: ignore[misc]
        self._start(DAEMON, [*dg_command, "dagster._daemon", "run", "-w", str(self._home(DAEMON) / "workspace.yaml")])
        self._await(DAEMON, lambda: "Instance is configured" in self.log(DAEMON))

    def _home(self, host: str) -> Path:
        """The host's DAGSTER_HOME: a copy of the profile with what a user would fill in."""
        home = self.folder / host
        if not home.exists():
            home.mkdir()
            socket_folder = {"storage": {"postgres": {"postgres_db": {"params": dict(self._dagster_url.query)}}}}
            configuration = merged(yaml.safe_load((self._profile / "dagster.yaml").read_text()), socket_folder, self.over)
            (home / "dagster.yaml").write_text(yaml.safe_dump(configuration))
            (home / "workspace.yaml").write_text(yaml.safe_dump(self._workspace))
        return home

    def _host_mark(self, name: str) -> str:
        return f"{self._mark}-{name}."

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                command,
                env={**self._environment(), "ACCEPTANCE_MARK": self._host_mark(name), "DAGSTER_HOME": str(self._home(name))},
                cwd=self._home(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )

    def _await(self, name: str, ready: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            assert time.monotonic() < deadline, f"{name} did not start: {self.log(name)[-3000:]}"
            time.sleep(0.1)

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "DAGSTER_", "SMTP_", "AWS_"))}
        options = f'{{"endpoint": "{self.ground.s3.endpoint}", "region": "{REGION}"}}'
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self._profile), os.environ.get("PYTHONPATH")])),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "DAGSTER_POSTGRES_HOST": "",  # the server listens on a socket, which the parameter `host` names
            "DAGSTER_POSTGRES_DB": str(self._dagster_url.database),
            "DAGSTER_POSTGRES_USER": str(self._dagster_url.username),
            "DAGSTER_POSTGRES_PASSWORD": POSTGRES_PASSWORD,
            "DAGSTER_LOGS_BUCKET": self.ground.s3.bucket,
            "DAGSTER_CELERY_BROKER_URL": f"{self.ground.broker}/{2 * self.number}",
            "DAGSTER_CELERY_BACKEND_URL": f"{self.ground.broker}/{2 * self.number + 1}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.ground.s3.endpoint,
            "KEEN_CODE_HOST": "127.0.0.1",
            "DOWNSTREAM_CODE_HOST": "127.0.0.1",
            "KEEN_BASE_URL": f"http://127.0.0.1:{self.port}",
            "KEEN_PROJECT_ID": self.project,
            "KEEN_READ_KEY": self.keys["read"],
            "KEEN_WRITE_KEY": self.keys["write"],
            "KEEN_MASTER_KEY": self.keys["master"],
            "KEEN_PIPELINE_DESTINATION": f"{self.ground.s3.uri}/cluster-{self.number}",
            "KEEN_PIPELINE_DESTINATION_OPTIONS": options,
            "KEEN_PIPELINE_LEDGER_URL": self._ledger_url,
            "KEEN_PIPELINE_COLLECTIONS": str(self.folder / "collections.yaml"),
            "KEEN_PIPELINE_PARTITIONS_PER_RUN": str(self.partitions_per_run),
            "KEEN_PIPELINE_LEASE_SECONDS": str(self.lease_seconds),
            "KEEN_PIPELINE_REQUESTS_PER_MINUTE": "5000",
            "KEEN_PIPELINE_RUNNING": "true",
        }


def merged(base: Mapping[str, Any], *over: Mapping[str, Any]) -> dict[str, Any]:
    """Each of `over` laid upon `base`, mappings within mappings too."""
    found = dict(base)
    for layer in over:
        for key, value in layer.items():
            below = found.get(key)
            found[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return found
