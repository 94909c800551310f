"""The environment, read once into one frozen object. Nothing else in the package reads `os.environ` for its own settings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.scope import DEFAULT_NAME

API_VERSIONS = ("2.0", "3.0")
KEEN_URL = "https://api.keen.io"
"""Keen's own service: the default once a project or a key is set."""
SHARED_VARIABLES = ("KEEN_PIPELINE_SERVICE_CATALOGUE_URL", "KEEN_PIPELINE_SERVICE_STORAGE")
"""They make a process of the service one of several, on one catalogue and one storage."""
# Read by whoever uses them; named here so that a misspelt one can be told.
_READ_ELSEWHERE = ("KEEN_PIPELINE_SFTP_PASSWORD", "KEEN_PIPELINE_SFTP_KEY_PASSPHRASE")

_SHORTEST_MASK_KEY_BYTES = 16
MOST_PARTITIONS_PER_RUN = 100_000
_PREFIX = "KEEN_PIPELINE_"
_Number = TypeVar("_Number", int, float)


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
    insecure_login: bool = False
    sender: str = "keen-pipeline@localhost"


@dataclass(frozen=True)
class SftpSecrets:
    """What opens an SFTP server, beside the keys of `~/.ssh` and the agent: a password, the passphrase of a private key."""

    password: str | None = field(default=None, repr=False)
    key_passphrase: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> SftpSecrets:
        """The process's own; an empty variable counts as unset."""
        password, passphrase = (os.environ.get(name, "").rstrip("\r\n") for name in _READ_ELSEWHERE)
        return cls(password or None, passphrase or None)


@dataclass(frozen=True)
class Settings:
    """What the environment says; `VARIABLES` tells which variable is which field, with its meaning, unit and bounds.

    `base_url`: Keen's API root, None means the embedded service.
    `unknown`: variables that begin with KEEN_PIPELINE_ and that nothing reads.
    """

    base_url: str | None = None
    project_id: str | None = None
    read_key: str | None = field(default=None, repr=False)
    write_key: str | None = field(default=None, repr=False)
    master_key: str | None = field(default=None, repr=False)
    api_version: str = "2.0"
    name: str = DEFAULT_NAME
    running: bool = False
    allow_private_results: bool | None = None
    destination: str = "./data/landing"
    destination_options: Mapping[str, object] = field(default_factory=dict, repr=False)
    ledger_url: str = field(default="sqlite:///./data/ledger.db", repr=False)
    collections_file: Path | None = None
    requests_per_minute: int = 200
    budget: str | None = None
    poll_seconds: float = 5.0
    max_attempts: int = 3
    retry_seconds: float = 30.0
    lease_seconds: float = 60.0
    partitions_per_run: int | None = None
    max_extraction_events: int = 10_000_000
    mask_key: bytes | None = field(default=None, repr=False)
    digest_to: tuple[str, ...] = ()
    digest_at: str = "06:00"
    digest_attachment_bytes: int = 2_000_000
    slack_webhook: str | None = field(default=None, repr=False)
    ui_url: str | None = None
    smtp_variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    service_data: Path = Path("./data/keen")
    service_catalogue_url: str | None = field(default=None, repr=False)
    service_storage: str | None = None
    service_redirect_hosts: tuple[str, ...] = ()
    service_mail_to: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `environ` (the process's own by default). An empty variable counts as unset.

        Raises ConfigurationError naming the variable.
        """
        env = {k: v.strip() for k, v in (os.environ if environ is None else environ).items() if v.strip()}
        values = {one.field: one.read(env[one.name]) for one in VARIABLES if one.name in env}
        account = ("project_id", "read_key", "write_key", "master_key")
        if "base_url" not in values and any(name in values for name in account):
            values["base_url"] = KEEN_URL
        smtp = {name: text for name, text in env.items() if name.startswith("SMTP_")}
        return cls(**values, smtp_variables=smtp, unknown=unknown_variables(env))

    @property
    def smtp(self) -> SmtpSettings | None:
        """The mail server, None if none is named. Raises ConfigurationError: others may have such variables of their own."""
        return _smtp(self.smtp_variables)

    @property
    def is_embedded(self) -> bool:
        """Whether no Keen account is configured, so that the embedded service stands in."""
        return self.base_url is None


@dataclass(frozen=True)
class Variable:
    """One environment variable: how its text is read, and what it means."""

    name: str
    parse: Callable[[str, str], Any]
    meaning: str

    @property
    def field(self) -> str:
        """The field of the settings that it sets."""
        plain = self.name.removeprefix("KEEN_").removeprefix("PIPELINE_").lower()
        return "collections_file" if plain == "collections" else plain

    def read(self, text: str) -> Any:
        """The value in its text. Raises ConfigurationError, which begins with the variable's name."""
        is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        if is_quoted and self.parse is not _mask_key:  # somebody's hashes may be made with the quotes
            raise ConfigurationError(
                f"{self.name} begins and ends with a quote: leave them out, they are taken for a part of it here"
            )
        return self.parse(self.name, text)


def _text(name: str, text: str) -> str:
    return text


def _key(name: str, text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigurationError(f"{name} is empty or holds characters that no key has (blanks, line ends or others beyond ASCII)")
    return text


def plain_url(name: str, text: str) -> str:
    """An http(s) address without a slash at its end. Raises InvalidInputError, which begins with `name`."""
    try:
        parts = urlsplit(text)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1
    except ValueError:
        wrong = True
    if wrong:
        raise InvalidInputError(f"{name} must be a URL that starts with http:// or https:// and names a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidInputError(f"{name} must be a plain address, without a user, a query or a fragment")
    return text.rstrip("/")


def _base_url(name: str, text: str) -> str:
    url = plain_url(name, text)
    version = re.search(r"/(2\.0|3\.0)(/.*)?$", url)
    if version is not None:
        raise ConfigurationError(
            f"{name} must be the address alone: leave out {version[0]} and set KEEN_API_VERSION={version[1]}"
            + (" and KEEN_PROJECT_ID" if "projects" in version[0] else "")
        )
    return url


def _api_version(name: str, text: str) -> str:
    if text not in API_VERSIONS:
        raise ConfigurationError(f"{name} must be one of {', '.join(API_VERSIONS)}, not {text[:60]!r}")
    return text


def _number(low: _Number, high: _Number) -> Callable[[str, str], _Number]:
    """Numbers of the bounds' type, both inclusive."""
    kind = type(low)

    def parse(name: str, text: str) -> _Number:
        try:
            value = kind(text)
        except ValueError:
            raise ConfigurationError(f"{name} must be a {'whole ' if kind is int else ''}number, not {text[:60]!r}") from None
        if not low <= value <= high:
            raise ConfigurationError(f"{name} must lie between {low:g} and {high:g}, not {text[:60]}")
        return value

    return parse


def _switch(name: str, text: str) -> bool:
    word = text.lower()
    if word not in ("1", "0", "true", "false", "yes", "no"):
        raise ConfigurationError(f"{name} must be true or false, not {word[:60]!r}")
    return word in ("1", "true", "yes")


def _ledger_url(name: str, text: str) -> str:
    if re.fullmatch(r"sqlite(\+\w+)?:/*(:memory:)?(\?.*)?", text):
        raise ConfigurationError(f"{name} is a ledger in memory, gone with each process: name a file, as sqlite:///ledger.db")
    return text


def _options(name: str, text: str) -> Mapping[str, object]:
    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise ConfigurationError(f'{name} must be a JSON object such as {{"endpoint": "https://..."}}')
    return options


def _mask_key(name: str, text: str) -> bytes:
    if len(text.encode()) < _SHORTEST_MASK_KEY_BYTES:
        raise ConfigurationError(f"{name} must have at least {_SHORTEST_MASK_KEY_BYTES} characters; a random one can't be guessed")
    return text.encode()


def _list_of(pattern: str, what: str) -> Callable[[str, str], tuple[str, ...]]:
    def parse(name: str, text: str) -> tuple[str, ...]:
        found = tuple(one for one in re.split(r"[,;\s]+", text) if one)
        wrong = next((one for one in found or [text] if not re.fullmatch(pattern, one)), None)
        if wrong is not None:
            raise ConfigurationError(f"{name} must hold {what} separated by commas; {wrong[:60]!r} is none")
        return found

    return parse


_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"


def _time_of_day(name: str, text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise ConfigurationError(f"{name} must be a time of day as HH:MM, not {text[:60]!r}")
    return text


def check_name(name: str, given: object) -> str:
    """`given` if definitions may be called so, else raises InvalidInputError with the `name` of the setting."""
    if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9_]{0,62}[A-Za-z0-9])?", given):
        raise InvalidInputError(
            f"{name} must be letters, digits and underscores, from a letter to a letter or digit, not {str(given)[:60]!r}",
            field=name,
        )
    return given


def _path(name: str, text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigurationError(f"{name}: there is no home folder as in {text[:60]!r}; write the whole path") from None


VARIABLES = (
    Variable("KEEN_BASE_URL", _base_url, f"the service; unset: the embedded one, or {KEEN_URL} with a project or key"),
    Variable("KEEN_PROJECT_ID", _key, "the project at the service"),
    Variable("KEEN_READ_KEY", _key, "reads events; a secret"),
    Variable("KEEN_WRITE_KEY", _key, "writes events (`load`); a secret"),
    Variable("KEEN_MASTER_KEY", _key, "deletes events; a secret"),
    Variable("KEEN_API_VERSION", _api_version, "2.0 (default) extracts asynchronously, 3.0 at once"),
    Variable("KEEN_PIPELINE_NAME", check_name, "of the definitions that commands speak of (default keen)"),
    Variable("KEEN_PIPELINE_RUNNING", _switch, "whether schedules and sensors start by themselves (default false, `dev`: true)"),
    Variable("KEEN_PIPELINE_DESTINATION", _text, "where files land: a folder or a URI (default ./data/landing)"),
    Variable("KEEN_PIPELINE_DESTINATION_OPTIONS", _options, "JSON object of the storage's options"),
    Variable("KEEN_PIPELINE_LEDGER_URL", _ledger_url, "SQLAlchemy URL (default sqlite:///./data/ledger.db)"),
    Variable("KEEN_PIPELINE_COLLECTIONS", _path, "YAML file of the collections"),
    Variable("KEEN_PIPELINE_REQUESTS_PER_MINUTE", _number(1, 100_000), "API requests a minute (default 200)"),
    Variable("KEEN_PIPELINE_BUDGET", _text, "projects with this in common share their requests a minute"),
    Variable("KEEN_PIPELINE_POLL_SECONDS", _number(0.05, 3600.0), "between polls of a run or command (default 5)"),
    Variable("KEEN_PIPELINE_MAX_ATTEMPTS", _number(1, 100), "of one extraction (default 3)"),
    Variable("KEEN_PIPELINE_RETRY_SECONDS", _number(0.0, 600.0), "first back-off after a failure (default 30), doubling to 600"),
    Variable("KEEN_PIPELINE_LEASE_SECONDS", _number(2.0, 86_400.0), "without a heartbeat until others take over (default 60)"),
    Variable("KEEN_PIPELINE_PARTITIONS_PER_RUN", _number(1, MOST_PARTITIONS_PER_RUN), "of a collection in one run; unset: all"),
    Variable("KEEN_PIPELINE_MAX_EXTRACTION_EVENTS", _number(1, 1_000_000_000), "requests of more are split (default 10000000)"),
    Variable("KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS", _switch, "whether results may be at a private address; unset: as the service"),
    Variable("KEEN_PIPELINE_MASK_KEY", _mask_key, "of the hashes of masked columns, at least 16 bytes; a secret"),
    Variable("KEEN_PIPELINE_DIGEST_TO", _list_of("[^@]+@[^@]+", "addresses"), "addresses that get the nightly digest and failures"),
    Variable("KEEN_PIPELINE_DIGEST_AT", _time_of_day, "HH:MM of the digest, in the zone of most collections (default 06:00)"),
    Variable("KEEN_PIPELINE_DIGEST_ATTACHMENT_BYTES", _number(0, 20_000_000), "of all files in one mail (default 2000000)"),
    Variable("KEEN_PIPELINE_SLACK_WEBHOOK", plain_url, "webhook of the Slack channel that gets both; a secret"),
    Variable("KEEN_PIPELINE_UI_URL", plain_url, "root of Dagster's UI, for links"),
    Variable("KEEN_PIPELINE_SERVICE_DATA", _path, "folder of the embedded service (default ./data/keen)"),
    Variable("KEEN_PIPELINE_SERVICE_CATALOGUE_URL", _text, "PostgreSQL that several services share"),
    Variable("KEEN_PIPELINE_SERVICE_STORAGE", _text, "root URI that several services share"),
    Variable(
        "KEEN_PIPELINE_SERVICE_REDIRECT_HOSTS",
        _list_of(_HOST, "names of hosts"),
        "hosts that the service's image beacon may redirect to; unset: none",
    ),
    Variable(
        "KEEN_PIPELINE_SERVICE_MAIL_TO",
        _list_of(f"(?:[^@*]*@)?{_HOST}", "addresses and domains"),
        "addresses and domains its mail may go to; unset: any",
    ),
)
"""Every variable of the pipeline, in the order in which they are documented. `SMTP_*` name the mail server."""


def unknown_variables(env: Mapping[str, str]) -> tuple[str, ...]:
    """Those that look like settings of ours and are none."""
    known = {*(one.name for one in VARIABLES), *_READ_ELSEWHERE}
    return tuple(sorted(name for name, text in env.items() if name.startswith(_PREFIX) and text.strip() and name not in known))


def _smtp(env: Mapping[str, str]) -> SmtpSettings | None:
    host = env.get("SMTP_HOST")
    if host is None:
        return None
    return SmtpSettings(
        host=host,
        port=_number(1, 65535)("SMTP_PORT", env.get("SMTP_PORT", "25")),
        user=env.get("SMTP_USER"),
        password=env.get("SMTP_PASSWORD"),
        starttls=_switch("SMTP_STARTTLS", env.get("SMTP_STARTTLS", "false")),
        insecure_login=_switch("SMTP_INSECURE_LOGIN", env.get("SMTP_INSECURE_LOGIN", "false")),
        sender=env.get("SMTP_FROM", "keen-pipeline@localhost"),
    )
