"""Where a results URL may lead: http(s), and to public addresses unless private ones are allowed.

Whether private ones are allowed is decided by configuration, never by what a name resolves to at the moment. Addresses by which a
cloud hands out its machines' credentials are never followed.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from keen_pipeline.errors import ConfigurationError, UnreachableError, UnreadableAnswerError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Python's `is_global` is another one in each patch release. Of IPv6 all that is not global unicast, mapped or NAT64 is private.
_NOT_PUBLIC = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24
    192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 2001::/23 2001:db8::/32 3fff::/20
"""
_MAYBE_PUBLIC = "0.0.0.0/0 2000::/3 ::ffff:0:0/96 64:ff9b::/96"
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"
# The link-local ones, and those of single clouds: EC2 and Google by IPv6, Alibaba, Azure.
_NEVER = "169.254.0.0/16 fe80::/10 fd00:ec2::254/128 fd20:ce::254/128 100.100.100.200/32 168.63.129.16/32"
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
# Networks whose last four bytes are an IPv4 address: mapped, compatible, translated, NAT64.
_TAILED = "::ffff:0:0/96 ::/96 ::ffff:0:0:0/96 64:ff9b::/96"
# Names that the public name service can't hold.
_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".intranet", ".lan", ".home.arpa", ".svc")


@dataclass(frozen=True)
class Address:
    """A place to connect to. `host` is the name for TLS and the Host header; `ips`, if set, are the only ones to connect to."""

    secure: bool
    host: str
    port: int
    ips: tuple[str, ...] = ()


def literal(host: str) -> IpAddress | None:
    """The IP address that `host` spells, also as a resolver takes it for one (`2130706433`, `0x7f.1`); None for a name."""
    host = host.rstrip(".")
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host)) if host and " " not in host else None
    except (OSError, ValueError):
        return None


def is_private_host(host: str) -> bool:
    """Whether a host is private by what it is called: a private IP address, `localhost`, or a name that no public one can be."""
    address = literal(host)
    if address is not None:
        return not is_public(address)
    name = host.rstrip(".").lower()
    return "." not in name or name.endswith(_PRIVATE_SUFFIXES)


def is_public(address: IpAddress) -> bool:
    """Whether an address is one of the public internet, and so are the IPv4 addresses within it."""
    listed = _is_in(address, _NOT_PUBLIC) or _is_in(address, _NEVER)
    return _is_in(address, _MAYBE_PUBLIC) and not listed and all(is_public(inner) for inner in _within(address))


def is_never_followed(address: IpAddress) -> bool:
    """Whether an address, or an IPv4 one within it, hands out a machine's credentials."""
    return _is_in(address, _NEVER) or any(is_never_followed(inner) for inner in _within(address))


def _is_in(address: IpAddress, networks: str) -> bool:
    return any(address in network for network in map(ipaddress.ip_network, networks.split()) if network.version == address.version)


def _within(address: IpAddress) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [ipaddress.IPv4Address(address.packed[12:])] if _is_in(address, _TAILED) else []
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    if address in _NAT64_LOCAL:  # RFC 6052: by the length of the prefix, which nobody tells; byte 8 is left out
        without = address.packed[:8] + address.packed[9:]
        found += [ipaddress.IPv4Address(without[start : start + 4]) for start in (6, 7, 8)]
        found.append(ipaddress.IPv4Address(address.packed[12:]))
    return found


def resolve(host: str, port: int, seconds: float) -> tuple[str, ...]:
    """Every IP address of `host`. Raises UnreachableError when the name can't be resolved within `seconds`."""
    answer: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError):  # UnicodeError, for a name that is none, is a ValueError
            found = []
        answer.put(tuple(dict.fromkeys(str(info[4][0]) for info in found)))

    if literal(host) is not None:
        ask()
    else:  # the system's resolver takes its own time, which nothing cuts short
        threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        ips = answer.get(timeout=max(0.0, seconds))
    except queue.Empty:
        raise UnreachableError(f"the host {host} can't be resolved within {seconds:.3g} s") from None
    if not ips:
        raise UnreachableError(f"the host {host} can't be resolved")
    return ips


def split_url(url: str, what: str = "the results URL") -> tuple[str, Address]:
    """What to ask for by an http(s) URL, and the place it names. Raises UnreadableAnswerError, which names `what`, not the URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UnreadableAnswerError(f"{what} is not a URL") from None
    escaped = host and "%" in host and ":" not in host  # a proxy may read another host in it than is checked here
    if parts.scheme not in ("http", "https") or not host or escaped or port == 0 or any(c < " " or c == "\x7f" for c in url):
        raise UnreadableAnswerError(f"{what} is not http(s) with a host")
    secure = parts.scheme == "https"
    path = quote((parts.path or "/") + ("?" + parts.query if parts.query else ""), safe=_URL_CHARACTERS, errors="replace")
    return path, Address(secure=secure, host=host, port=port or (443 if secure else 80))


def redirected(url: str, location: str, what: str = "results: the URL") -> str:
    """Where the Location in the answer of `url` leads. Raises UnreadableAnswerError."""
    try:
        # http.client reads a head as Latin-1; what isn't ASCII in it is UTF-8.
        return urljoin(url, location.encode("latin-1", "replace").decode("utf-8", "replace"))
    except ValueError:
        raise UnreadableAnswerError(f"{what} redirects to something that isn't a URL") from None


def checked(place: Address, *, allow_private: bool, by_proxy: bool = False, seconds: float = 10.0) -> Address:
    """`place` with the addresses to connect to, each of them checked: the name can't change its mind in between.

    `by_proxy`: the proxy resolves the name, so only what the name says itself can be checked. `seconds`: for looking it up.
    Raises ConfigurationError for an address that is not allowed, UnreachableError when the name can't be resolved.
    """
    written = literal(place.host)
    private = is_private_host(place.host)
    if written is not None:
        ips: tuple[str, ...] = (str(written),)
    else:
        ips = () if by_proxy or (private and not allow_private) else resolve(place.host, place.port, seconds)
    addresses = [ipaddress.ip_address(ip.partition("%")[0]) for ip in ips]
    if any(is_never_followed(address) for address in addresses):
        raise ConfigurationError(
            f"the results URL leads to an address of {place.host} that hands out this machine's credentials; it is never followed"
        )
    if not allow_private and (private or not all(is_public(address) for address in addresses)):
        raise ConfigurationError(
            f"the results URL leads to the private address of {place.host}, which is not followed for a public service; "
            "if it is meant, set KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS=true"
        )
    return Address(place.secure, place.host, place.port, () if by_proxy else ips)
