"""Where a results URL may lead: by configuration, to the addresses that were checked, never to a machine's credentials."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from keen_pipeline.client import KeenClient, address
from keen_pipeline.client.address import Address, checked, is_never_followed, is_public, split_url
from keen_pipeline.errors import (
    ConfigurationError,
    UnreachableError,
    UnreadableAnswerError,
)
from keen_pipeline_tests.client.calls import answers_of, client_of, read
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.faults import FaultServer


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(results=[faults.whole()], body=b"a,b\n1,2\n") as running:
        yield running


PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
PRIVATE = (  # noqa: SIM905 - a table
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 0.0.0.0 192.0.0.8 192.88.99.1 198.18.0.1 224.0.0.1 255.255.255.255 "
    "4000::1 a000::1 64:ff9b:2::1 ::2:0:0:1 "
    "::1 :: ::7f00:1 ::8.8.8.8 fd00::1 fec0::1 ff02::1 100::1 2001:db8::1 3fff::1 5f00::1 ::ffff:127.0.0.1 ::ffff:0:127.0.0.1 "
    "64:ff9b::7f00:1 64:ff9b:1::808:808 2002:7f00:1:: 2001:0:808:808::"
).split()
NEVER = (  # noqa: SIM905 - a table
    "169.254.169.254 169.254.1.1 fe80::1 fe80::1%1 fd00:ec2::254 fd20:ce::254 100.100.100.200 168.63.129.16 "
    "::ffff:169.254.169.254 ::169.254.169.254 ::ffff:0:169.254.169.254 64:ff9b::a9fe:a9fe 64:ff9b:1::a9fe:a9fe "
    "64:ff9b:1:a9fe:a9:fe00:: 64:ff9b:1:1:a9:fea9:fe00:0 64:ff9b:1:a9:fe:a9fe:: 2002:a9fe:a9fe:: 2001:0:a9fe:a9fe:: "
    "2001:0:808:808:0:0:5601:5601"
).split()


@pytest.mark.parametrize("ip", PUBLIC + PRIVATE + NEVER)
def test_which_addresses_are_public_and_which_are_never_followed(ip: str) -> None:
    address = ipaddress.ip_address(ip.partition("%")[0])
    assert is_public(address) is (ip in PUBLIC)
    assert is_never_followed(address) is (ip in NEVER)


def url_of(ip: str) -> str:
    return f"http://[{ip}]/f?signature=s3cr3t" if ":" in ip else f"http://{ip}/f?signature=s3cr3t"


def check(url: str, *, allow_private: bool, by_proxy: bool = False) -> Address:
    return checked(split_url(url)[1], allow_private=allow_private, by_proxy=by_proxy)


@pytest.mark.parametrize("by_proxy", [False, True], ids=["direct", "by a proxy"])
@pytest.mark.parametrize("host", [*NEVER, "2852039166", "0xa9.0xfea9fe", "0251.0376.0251.0376"])
def test_addresses_of_credentials_are_never_followed(host: str, by_proxy: bool) -> None:
    with pytest.raises(ConfigurationError, match="credentials") as raised:
        check(url_of(host), allow_private=True, by_proxy=by_proxy)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("by_proxy", [False, True], ids=["direct", "by a proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost.", "::1", "2130706433", "0x7f.1", "127.1", "10.0.0.7"])
def test_private_address_in_any_spelling_is_refused(host: str, by_proxy: bool) -> None:
    with pytest.raises(ConfigurationError, match="private address") as raised:
        check(url_of(host), allow_private=False, by_proxy=by_proxy)
    assert "s3cr3t" not in str(raised.value)
    assert host == "localhost." or check(url_of(host), allow_private=True, by_proxy=by_proxy).port == 80


@pytest.mark.parametrize("host", ["metadata.google.internal", "keen-service", "files.localhost", "x.svc"])
def test_private_name_is_refused_though_a_proxy_resolves_it(host: str) -> None:
    with pytest.raises(ConfigurationError, match="private address"):
        check(url_of(host), allow_private=False, by_proxy=True)


def test_name_is_left_to_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert check("https://results.example/f", allow_private=False, by_proxy=True) == Address(True, "results.example", 443)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://8.8.8.8/x",
        "//8.8.8.8/x",
        "x",
        "http://",
        "http://8.8.8.8:99999/",
        "http://8.8.8.8:0/",
        "http://8.8.8.8/a\nb",
        "http://%31%36%39.254.169.254/",
        "gopher://x",
        "http://[::1",
    ],
)
def test_only_http_is_followed(url: str) -> None:
    with pytest.raises(UnreadableAnswerError):
        split_url(url)


def test_loopback_is_allowed_for_a_service_on_loopback(server: FaultServer) -> None:
    assert read(client_of(server), server.results_url) == server.body


@pytest.mark.parametrize("url", ["https://93.184.216.34", "http://keen.example", "https://127.0.0.1.example", "http://[2606::1]"])
def test_loopback_is_refused_for_a_public_service_whatever_its_name_resolves_to(
    url: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_of(dict.fromkeys(["keen.example", "127.0.0.1.example"], "127.0.0.1"), monkeypatch)
    public = KeenClient(url, "P1", read_key="k")
    with pytest.raises(ConfigurationError, match="private address"):
        read(public, server.results_url)
    with pytest.raises(ConfigurationError, match="private address"):
        read(public, f"http://keen.example:{server.port}/results/f")
    assert server.requests == []


@pytest.mark.parametrize(
    "url", ["http://10.0.0.7", "http://localhost:8765", "http://keen-service:8765", "http://[::1]:9", "http://a.svc"]
)
def test_private_results_are_allowed_where_the_service_is_called_so(url: str, server: FaultServer) -> None:
    assert read(KeenClient(url, "P1", read_key="k"), server.results_url) == server.body


def test_redirect_to_a_private_address_is_refused_too(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first address passes for a public one; only its redirect does not.
    monkeypatch.setattr(address, "is_public", lambda ip: str(ip) != "127.0.0.2")
    server.results = [faults.redirect("http://127.0.0.2:9/secret")]
    with pytest.raises(ConfigurationError, match=r"private address of 127\.0\.0\.2"):
        read(client_of(server, allow_private_results=False), server.results_url)


def test_redirect_to_credentials_is_refused_even_where_private_ones_are_allowed(server: FaultServer) -> None:
    server.results = [faults.redirect("http://169.254.169.254/latest/meta-data/")]
    with pytest.raises(ConfigurationError, match="credentials"):
        read(client_of(server, allow_private_results=True), server.results_url)


def test_connection_goes_to_the_checked_address(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is resolved once; a second answer of the name server has no say."""
    real, asked = socket.getaddrinfo, list[str]()

    def once(host: str, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if asked.count("results.example") < 2 else "127.0.0.9", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    made = client_of(server, allow_private_results=True)
    assert read(made, f"http://results.example:{server.port}/results/f") == server.body
    assert asked.count("results.example") == 1
    assert server.requests[0].headers["host"] == f"results.example:{server.port}"


def test_name_without_an_address_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(UnreachableError, match="can't be resolved"):
        check("http://results.example/f", allow_private=False)
