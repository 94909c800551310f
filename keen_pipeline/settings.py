"""The environment, read once into one frozen object. Nothing else in the package reads `os.environ` for its own settings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keen_pipeline.errors import ConfigurationError

API_VERSIONS = ("2.0", "3.0")
SHARED_VARIABLES = ("KEEN_PIPELINE_SERVICE_CATALOGUE_URL", "KEEN_PIPELINE_SERVICE_STORAGE")
"""They make a process of the service one of several, on one catalogue and one storage."""

_SHORTEST_MASK_KEY_BYTES = 16
MOST_PARTITIONS_PER_RUN = 100_000


@dataclass(frozen=True)
class SmtpSettings:
    """Where mail goes out. `port` 1 to 65535; `starttls` upgrades the connection before the password is sent.

    `insecure_login`: send the password without TLS, which is refused otherwise.
    """

    host: str
    port: int = 25
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    starttls: bool = False
    sender: str = "keen-pipeline@localhost"
    insecure_login: bool = False


@dataclass(frozen=True)
class SftpSecrets:
    """What opens an SFTP server, beside the keys of `~/.ssh` and the agent: a password, the passphrase of a private key."""

    password: str | None = field(default=None, repr=False)
    key_passphrase: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> SftpSecrets:
        """The process's own; an empty variable counts as unset."""
        env = os.environ
        return cls(env.get("KEEN_PIPELINE_SFTP_PASSWORD") or None, env.get("KEEN_PIPELINE_SFTP_KEY_PASSPHRASE") or None)


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    `base_url`: Keen's API root, None means the embedded service. `requests_per_minute`: budget of one ledger, over all
    processes (1 to 100000). `poll_seconds`: between status requests inside a run or a command (0.05 to 3600).
    `max_attempts`: of one extraction (1 to 100). `retry_seconds`: first back-off after a failed extraction (0 to 600),
    doubling, at most 600. `lease_seconds`: how long the work of a process that died is left alone (2 to 86400).
    `partitions_per_run`: of each collection in one run of a backfill (1 to 100000); None: a whole range is one run.
    `max_extraction_events`: a request of more events is split (1 to 1000000000). `mask_key`: of the hashes of masked columns, at
    least 16 bytes. `digest_to`: addresses of the nightly digest, which is sent at `digest_at` (HH:MM in the schedule's zone) with
    files of at most `digest_attachment_bytes` together (0 to 20000000) and links below `ui_url`. `slack_webhook`: the same for
    Slack. `service_data`: folder of the embedded service. `service_catalogue_url`, `service_storage`: the PostgreSQL database and
    the root URI that several processes of it share. `service_redirect_hosts`: hosts that its image beacon may redirect to.
    `service_mail_to`: addresses and domains that its mail may go to; empty: any.
    `allow_private_results`: whether a results URL may lead to a private address; None: where the service's own is one.
    `destination_options`: transport options of the destination, as its scheme takes them.
    """

    base_url: str | None = None
    project_id: str | None = None
    read_key: str | None = field(default=None, repr=False)
    write_key: str | None = field(default=None, repr=False)
    master_key: str | None = field(default=None, repr=False)
    api_version: str = "2.0"
    allow_private_results: bool | None = None
    destination: str = "./data/landing"
    destination_options: Mapping[str, object] = field(default_factory=dict)
    ledger_url: str = field(default="sqlite:///./data/ledger.db", repr=False)
    collections_file: Path | None = None
    requests_per_minute: int = 200
    poll_seconds: float = 5.0
    max_attempts: int = 3
    retry_seconds: float = 30.0
    lease_seconds: float = 300.0
    partitions_per_run: int | None = None
    max_extraction_events: int = 10_000_000
    mask_key: bytes | None = field(default=None, repr=False)
    digest_to: tuple[str, ...] = ()
    digest_at: str = "06:00"
    digest_attachment_bytes: int = 2_000_000
    slack_webhook: str | None = field(default=None, repr=False)
    ui_url: str | None = None
    smtp: SmtpSettings | None = None
    service_data: Path = Path("./data/keen")
    service_catalogue_url: str | None = field(default=None, repr=False)
    service_storage: str | None = None
    service_redirect_hosts: tuple[str, ...] = ()
    service_mail_to: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `environ` (the process's own by default). An empty variable counts as unset.

        Raises ConfigurationError naming the variable.
        """
        env = {k: v for k, v in (os.environ if environ is None else environ).items() if v.strip()}
        base_url = env.get("KEEN_BASE_URL")
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise ConfigurationError("KEEN_BASE_URL must start with http:// or https://")
        version = env.get("KEEN_API_VERSION", "2.0")
        if version not in API_VERSIONS:
            raise ConfigurationError(f"KEEN_API_VERSION must be one of {', '.join(API_VERSIONS)}, not {version!r}")
        collections = env.get("KEEN_PIPELINE_COLLECTIONS")
        return cls(
            base_url=base_url.rstrip("/") if base_url else None,
            project_id=env.get("KEEN_PROJECT_ID"),
            read_key=env.get("KEEN_READ_KEY"),
            write_key=env.get("KEEN_WRITE_KEY"),
            master_key=env.get("KEEN_MASTER_KEY"),
            api_version=version,
            allow_private_results=_switch(env, "KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS"),
            destination=env.get("KEEN_PIPELINE_DESTINATION", cls.destination),
            destination_options=_options(env),
            ledger_url=env.get("KEEN_PIPELINE_LEDGER_URL", "sqlite:///./data/ledger.db"),
            collections_file=Path(collections) if collections else None,
            requests_per_minute=int(_number(env, "KEEN_PIPELINE_REQUESTS_PER_MINUTE", 200, 1, 100_000, whole=True)),
            poll_seconds=_number(env, "KEEN_PIPELINE_POLL_SECONDS", 5.0, 0.05, 3600),
            max_attempts=int(_number(env, "KEEN_PIPELINE_MAX_ATTEMPTS", 3, 1, 100, whole=True)),
            retry_seconds=_number(env, "KEEN_PIPELINE_RETRY_SECONDS", 30.0, 0, 600),
            lease_seconds=_number(env, "KEEN_PIPELINE_LEASE_SECONDS", 300.0, 2, 86_400),
            # Unset is none, and 0 is refused.
            partitions_per_run=int(_number(env, "KEEN_PIPELINE_PARTITIONS_PER_RUN", 0, 1, MOST_PARTITIONS_PER_RUN, whole=True))
            or None,
            max_extraction_events=int(
                _number(env, "KEEN_PIPELINE_MAX_EXTRACTION_EVENTS", 10_000_000, 1, 1_000_000_000, whole=True)
            ),
            mask_key=_mask_key(env),
            digest_to=_words(env, "KEEN_PIPELINE_DIGEST_TO"),
            digest_at=env.get("KEEN_PIPELINE_DIGEST_AT", cls.digest_at),
            digest_attachment_bytes=int(
                _number(env, "KEEN_PIPELINE_DIGEST_ATTACHMENT_BYTES", 2_000_000, 0, 20_000_000, whole=True)
            ),
            slack_webhook=env.get("KEEN_PIPELINE_SLACK_WEBHOOK"),
            ui_url=env.get("KEEN_PIPELINE_UI_URL"),
            smtp=_smtp(env),
            service_data=Path(env.get("KEEN_PIPELINE_SERVICE_DATA", "./data/keen")),
            service_catalogue_url=env.get("KEEN_PIPELINE_SERVICE_CATALOGUE_URL"),
            service_storage=env.get("KEEN_PIPELINE_SERVICE_STORAGE"),
            service_redirect_hosts=_words(env, "KEEN_PIPELINE_SERVICE_REDIRECT_HOSTS"),
            service_mail_to=_words(env, "KEEN_PIPELINE_SERVICE_MAIL_TO"),
        )


def _options(env: Mapping[str, str]) -> Mapping[str, object]:
    try:
        options = json.loads(env.get("KEEN_PIPELINE_DESTINATION_OPTIONS", "{}"))
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise ConfigurationError('KEEN_PIPELINE_DESTINATION_OPTIONS must be a JSON object such as {"endpoint": "https://..."}')
    return options


def _words(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[,;\s]+", env.get(name, "")) if word)


def _mask_key(env: Mapping[str, str]) -> bytes | None:
    key = env.get("KEEN_PIPELINE_MASK_KEY")
    if key is not None and len(key.encode()) < _SHORTEST_MASK_KEY_BYTES:
        raise ConfigurationError(
            f"KEEN_PIPELINE_MASK_KEY must have at least {_SHORTEST_MASK_KEY_BYTES} characters; a random one can't be guessed"
        )
    return key.encode() if key is not None else None


def _smtp(env: Mapping[str, str]) -> SmtpSettings | None:
    host = env.get("SMTP_HOST")
    if host is None:
        return None
    return SmtpSettings(
        host=host,
        port=int(_number(env, "SMTP_PORT", 25, 1, 65535, whole=True)),
        user=env.get("SMTP_USER"),
        password=env.get("SMTP_PASSWORD"),
        starttls=_switch(env, "SMTP_STARTTLS") or False,
        sender=env.get("SMTP_FROM", "keen-pipeline@localhost"),
        insecure_login=_switch(env, "SMTP_INSECURE_LOGIN") or False,
    )


def _switch(env: Mapping[str, str], name: str) -> bool | None:
    """None where it is unset."""
    text = env.get(name)
    if text is None:
        return None
    word = text.strip().lower()
    if word not in ("1", "0", "true", "false", "yes", "no"):
        raise ConfigurationError(f"{name} must be true or false, not {word!r}")
    return word in ("1", "true", "yes")


def _number(env: Mapping[str, str], name: str, default: float, low: float, high: float, *, whole: bool = False) -> float:
    text = env.get(name)
    if text is None:
        return default
    try:
        value = float(int(text)) if whole else float(text)
    except ValueError:
        raise ConfigurationError(f"{name} must be a {'whole ' if whole else ''}number, not {text!r}") from None
    if not low <= value <= high:
        raise ConfigurationError(f"{name} must lie between {low:g} and {high:g}, not {text}")
    return value
