"""The transport options of each kind of storage. Keys and passwords are none of them: those come from the environment alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from keen_pipeline.errors import ConfigurationError

Options = TypeVar("Options")


@dataclass(frozen=True)
class LocalOptions:
    """A folder takes none."""


@dataclass(frozen=True)
class S3Options:
    """`s3://bucket/prefix`. `endpoint`: another service than Amazon's; else `AWS_ENDPOINT_URL_S3`. `region`: else
    `AWS_DEFAULT_REGION`. Keys: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, a profile or the machine's role.
    """

    endpoint: str | None = None
    region: str | None = None


@dataclass(frozen=True)
class GcsOptions:
    """`gs://bucket/prefix`. `endpoint`: of an emulator, which gets no credentials; else `STORAGE_EMULATOR_HOST`. `project`: else
    the credentials' own. Credentials: `GOOGLE_APPLICATION_CREDENTIALS`, or the machine's service account.
    """

    endpoint: str | None = None
    project: str | None = None


@dataclass(frozen=True)
class AzureOptions:
    """`azure://container/prefix`. `account`: name of the storage account, else `AZURE_STORAGE_ACCOUNT`; `endpoint`: its address
    if that is not `https://{account}.blob.core.windows.net`. Keys: `AZURE_STORAGE_CONNECTION_STRING` (which says all),
    `AZURE_STORAGE_KEY` or `AZURE_STORAGE_SAS_TOKEN`; else the identity that the package azure-identity finds.
    """

    endpoint: str | None = None
    account: str | None = None


@dataclass(frozen=True)
class SftpOptions:
    """`sftp://user@host:port/folder`; `//folder` after the host is the same absolute path.

    `known_hosts`: file of host keys, else `~/.ssh/known_hosts`; a host that is not in it is refused. `key_file`: private key,
    else those of `~/.ssh` and the agent; its passphrase: `KEEN_PIPELINE_SFTP_KEY_PASSPHRASE`. Password:
    `KEEN_PIPELINE_SFTP_PASSWORD`. `timeout_seconds`: of the connection and of each wait for an answer (1 to 3600).
    """

    known_hosts: str | None = None
    key_file: str | None = None
    timeout_seconds: float = 30.0


def read_options(kind: type[Options], values: Mapping[str, object], root: str) -> Options:
    """Options from a configuration's mapping. Raises ConfigurationError naming what is unknown, or of another type."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ConfigurationError(f"destination {root}: unknown transport options {', '.join(unknown)}; {takes}")
    checked: dict[str, Any] = {name: _value(name, value, root) for name, value in values.items() if value is not None}
    return kind(**checked)


def _value(name: str, value: object, root: str) -> str | float:
    where = f"destination {root}: transport option {name}"
    if name == "timeout_seconds":
        try:
            seconds = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ConfigurationError(f"{where} must be a number of seconds, not {value!r}") from None
        if not 1 <= seconds <= 3600:
            raise ConfigurationError(f"{where} must lie between 1 and 3600, not {value!r}")
        return seconds
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{where} must be text, not {value!r}")
    if name == "endpoint":
        if not value.startswith(("http://", "https://")) or "@" in value or "?" in value:
            raise ConfigurationError(f"{where} must be an http:// or https:// address without keys in it")
        return value.rstrip("/")
    return value
