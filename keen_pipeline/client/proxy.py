"""The environment's proxies, as requests and boto3 read them: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, in lower case too."""

from __future__ import annotations

import base64
import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

from keen_pipeline.client.address import Address, literal
from keen_pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Proxy:
    """One proxy, and the variable that names it. `headers`, which requests to it carry besides, have its user and never show."""

    variable: str
    secure: bool
    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict, repr=False)


class Proxies:
    """The environment's proxies at the moment this is made; `used=False` for none."""

    def __init__(self, *, used: bool = True) -> None:
        self._urls = getproxies_environment() if used else {}

    @property
    def secrets(self) -> list[str]:
        """Passwords, in every form in which they travel."""
        found = []
        for scheme in ("http", "https", "all"):
            url = self._urls.get(scheme, "")
            user, _, password = url.rpartition("@")[0].rpartition("//")[2].partition(":")
            found += [password, unquote(password), _basic(user, password).partition(" ")[2]] if password else []
        return found

    def of(self, place: Address) -> Proxy | None:
        """The proxy by which `place` is reached, None for a direct connection. Raises ConfigurationError naming its variable."""
        scheme = "https" if place.secure else "http"
        name = scheme if self._urls.get(scheme) else "all"
        url = self._urls.get(name)
        bypassed = any(_names(entry, place) for entry in re.split(r"[\s,]+", self._urls.get("no", "").lower()) if entry)
        return None if not url or bypassed else _read(f"{name.upper()}_PROXY", url)


def _names(entry: str, place: Address) -> bool:
    """Whether an entry of NO_PROXY, with or without a port, stands for a place: `*`, a domain with what is under it, a network."""
    name, port = entry, ""
    if (found := re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", entry)) is not None:
        name, port = found[1], found[2]
    if port and int(port) != place.port:
        return False
    address = literal(place.host)
    with suppress(ValueError):  # it is a name
        if address is not None:
            return address in ipaddress.ip_network(re.sub(r"[\[\]]", "", name), strict=False)
    domain = name.removeprefix("*").strip(".")
    return name == "*" or f".{place.host.lower().rstrip('.')}".endswith(f".{domain}")


def _read(variable: str, url: str) -> Proxy:
    wrong = f"{variable}: expected http://HOST:PORT or https://HOST:PORT (with USER:PASSWORD@ before the host if it wants them)"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(wrong) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(f"{wrong}; SOCKS is not supported" if parts.scheme.startswith("socks") else wrong)
    secure = parts.scheme == "https"
    user = {} if parts.username is None else {"Proxy-Authorization": _basic(parts.username, parts.password or "")}
    return Proxy(variable, secure, host, port or (443 if secure else 80), user)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
