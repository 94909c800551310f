"""Where a results URL may lead: http(s), and to public addresses unless private ones are allowed."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from keen_pipeline.errors import ConfigurationError, ProtocolError, ServiceUnavailableError


@dataclass(frozen=True)
class Address:
    """A checked place to connect to. `host` is the name for TLS and the Host header, `ips` what it resolved to."""

    secure: bool
    host: str
    port: int
    ips: tuple[str, ...]


def is_public(ip: str) -> bool:
    """Whether an IP address is one of the public internet (not private, loopback, link-local, multicast or reserved)."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if mapped is not None and not is_public(str(mapped)):
        return False
    # 64:ff9b::/96 carries an IPv4 address in its last four bytes (NAT64).
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return is_public(str(ipaddress.ip_address(int(address) & 0xFFFFFFFF)))
    return address.is_global and not address.is_multicast


def resolve(host: str, port: int) -> tuple[str, ...]:
    """Every IP address of `host`. Raises ServiceUnavailableError where the name can't be resolved now."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ServiceUnavailableError(f"the host {host} can't be resolved") from None
    return tuple(dict.fromkeys(str(info[4][0]) for info in found))


def check_results_address(url: str, *, allow_private: bool) -> Address:
    """Resolve the host of a results URL and check every address of it.

    The caller connects to the returned addresses, not to the name, so that the name can't change its mind in between.
    Raises ProtocolError for anything but http(s) with a host, ConfigurationError for an address that is not allowed.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ProtocolError("the results URL is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or any(c <= " " or c == "\x7f" for c in url):
        raise ProtocolError("the results URL is not http(s) with a host")
    secure = parts.scheme == "https"
    port = (443 if secure else 80) if port is None else port
    ips = resolve(host, port)
    if not allow_private and not all(is_public(ip) for ip in ips):
        raise ConfigurationError(
            f"the results URL leads to the private address of {host}, which is not followed for a public service; "
            "if it is meant, set KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS=true"
        )
    return Address(secure=secure, host=host, port=port, ips=ips)
