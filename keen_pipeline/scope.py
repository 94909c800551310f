"""Whose an entry of the ledger is: which project's events, at which destination, by which definitions. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_NAME = "keen"


def title_of(name: str) -> str:
    """What a message about the definitions called `name` begins with: `Keen`, or `Keen shop`."""
    return "Keen" if name == DEFAULT_NAME else f"Keen {name}"


@dataclass(frozen=True)
class Scope:
    """One pipeline's share of a ledger; nobody touches another's.

    `source`: the service and its project, see `source_of`. `destination`: root URI of the files. `name`: of the definitions.
    """

    source: str
    destination: str
    name: str = DEFAULT_NAME

    def __str__(self) -> str:
        return f"{self.name}: {self.source} to {self.destination}"


def source_of(base_url: str, project_id: str) -> str:
    """A project of a service as one text. Of a service on loopback it is the project alone, since its port changes.

    >>> source_of("https://api.keen.io", "p1"), source_of("http://127.0.0.1:40001", "p1")
    ('https://api.keen.io/projects/p1', 'projects/p1')
    """
    url = urlsplit(base_url)
    here = (
        "" if is_loopback(url.hostname or "") else f"{url.scheme}://{url.netloc.rpartition('@')[2].lower()}{url.path}".rstrip("/")
    )
    return f"{here}/projects/{project_id}".lstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine by its own words: a loopback address or `localhost`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
