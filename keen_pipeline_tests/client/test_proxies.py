"""The environment's proxies, as requests and boto3 read them: for the API and for results, with their passwords kept secret."""

from __future__ import annotations

import base64
import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.client.address import Address
from keen_pipeline.client.proxy import Proxies
from keen_pipeline.errors import ConfigurationError, KeenPipelineError, ServiceUnavailableError, UnreachableError
from keen_pipeline.extraction import SecretUrl
from keen_pipeline_tests.servers import faults, tls, wire_faults
from keen_pipeline_tests.servers.faults import FaultServer, document, status

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CSV = b"a,b\n1,2\n"
HOSTS = ("keen.example", "results.example")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def proxy() -> Iterator[FaultServer]:
    """Answers for every host, as it got the whole address."""
    with FaultServer(api=[document({"collections": []})], results=[faults.whole()], body=CSV) as running:
        yield running


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """What stands behind a tunnel."""
    tls.trust(tmp_path, monkeypatch)
    with FaultServer(
        api=[document({"collections": []})], results=[faults.whole()], body=CSV, tls=tls.server_context(*HOSTS)
    ) as running:
        yield running


def client(url: str = "http://keen.example", **options: bool) -> KeenClient:
    return KeenClient(url, "P1", read_key="read-key-77aa", total_timeout=5, **options)  # type: ignore[arg-type]


def read(made: KeenClient, url: str) -> bytes:
    buffer = bytearray(100)
    with made.open_results(SecretUrl(url)) as stream:
        return bytes(buffer[: stream.readinto(memoryview(buffer))])


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_plain_requests_go_to_the_proxy_which_resolves_the_names(
    name: str, proxy: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, proxy.url if name.isupper() else proxy.url.removeprefix("http://"))
    made = client()
    assert made.collections() == []
    assert read(made, "http://results.example:8080/results/f?signature=s3cr3t") == CSV
    assert [(one.target, one.headers["host"]) for one in proxy.requests] == [
        ("http://keen.example/2.0/projects/P1", "keen.example"),
        ("http://results.example:8080/results/f?signature=s3cr3t", "results.example:8080"),
    ]
    assert "proxy-authorization" not in proxy.requests[0].headers


@pytest.mark.parametrize("over_tls", [False, True], ids=["proxy over http", "proxy over https"])
def test_tls_goes_through_a_tunnel_end_to_end(over_tls: bool, secure: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    context = tls.server_context() if over_tls else None
    with FaultServer(api=[wire_faults.relay(secure.port)], tls=context) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:pa%40ss@"))
        made = client("https://keen.example")
        assert made.collections() == []
        assert read(made, "https://results.example/results/f") == CSV
    assert [(one.method, one.target) for one in proxy.requests] == [
        ("CONNECT", "keen.example:443"),
        ("CONNECT", "results.example:443"),
    ]
    wanted = "Basic " + base64.b64encode(b"user:pa@ss").decode()
    assert {one.headers["proxy-authorization"] for one in proxy.requests} == {wanted}
    assert all("authorization" not in one.headers for one in proxy.requests)
    assert all("proxy-authorization" not in one.headers for one in secure.requests)
    assert secure.requests[0].headers["authorization"] == "read-key-77aa"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("over_tls", [False, True], ids=["proxy over http", "proxy over https"])
def test_tunnel_that_drips_is_given_up_in_time(over_tls: bool, secure: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    context = tls.server_context() if over_tls else None
    with FaultServer(api=[wire_faults.relay(secure.port, every=0.1)], tls=context) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        made = KeenClient("https://keen.example", "P1", read_key="read-key-77aa", connect_timeout=0.5, total_timeout=1)
        with pytest.raises(UnreachableError):
            made.collections()


@pytest.mark.parametrize(
    ("no_proxy", "bypassed"),
    [
        ("127.0.0.1", True),
        ("example.com, 127.0.0.1", True),
        ("127.0.0.0/8", True),
        ("*", True),
        ("", False),
        ("10.0.0.0/8,example.com", False),
        ("127.0.0.1:1", False),
    ],
)
def test_no_proxy_is_a_list_of_hosts_and_networks(
    no_proxy: str, bypassed: bool, proxy: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(api=[document({"collections": []})], results=[faults.whole()], body=CSV) as direct:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", no_proxy)
        client(direct.url).collections()
        read(client(direct.url), direct.results_url)
        assert (len(proxy.requests), len(direct.requests)) == ((0, 2) if bypassed else (2, 0))


@pytest.mark.parametrize(
    ("no_proxy", "host", "bypassed"),
    [
        ("x, *", "keen.example", True),
        ("*.keen.example", "api.keen.example", True),
        ("keen.example.", "api.keen.example", True),
        ("keen.example", "API.Keen.Example.", True),
        ("x.example keen.example", "keen.example", True),
        ("keen.example:443", "api.keen.example", True),
        ("keen.example:80", "keen.example", False),
        ("keen.example", "notkeen.example", False),
        (".", "keen.example", False),
        ("fe80::/10,fd00::/8", "fd00::1", True),
        ("[fd00::1]:443", "fd00::1", True),
        ("[fd00::1]:80", "fd00::1", False),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("10.0.0.0/8:443", "10.1.2.3", True),
        ("10.0.0.0/8", "::1", False),
        ("127.0.0.1", "127.1", True),
    ],
)
def test_no_proxy_is_read_in_every_usual_form(no_proxy: str, host: str, bypassed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (Proxies().of(Address(True, host, 443)) is None) == bypassed


@pytest.mark.parametrize("host", ["keen.example", "api.keen.example"])
def test_no_proxy_names_a_domain_and_what_is_under_it(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", ".keen.example")
    assert Proxies().of(Address(True, host, 443)) is None
    assert Proxies().of(Address(True, f"{host}.org", 443)) is not None
    assert Proxies(used=False).of(Address(True, f"{host}.org", 443)) is None


def test_no_proxies_where_that_is_said(proxy: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with FaultServer(api=[document({"collections": []})]) as direct:
        client(direct.url, use_proxies=False).collections()
        assert (len(proxy.requests), len(direct.requests)) == (0, 1)


@pytest.mark.parametrize(
    "text", ["socks5://user:s3cr3t-word@proxy:1080", "ftp://x:s3cr3t-word@y", "http://", "http://h:s3cr3t-word", "http://["]
)
def test_proxy_that_is_none_is_refused_by_its_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", text)
    with pytest.raises(ConfigurationError, match="HTTP_PROXY") as raised:
        client().collections()
    with pytest.raises(ConfigurationError, match="HTTP_PROXY"):
        read(client(), "http://results.example/results/f")
    assert "s3cr3t-word" not in str(raised.value)


def test_proxy_that_wants_other_credentials_is_named(proxy: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.api = proxy.results = [status(407, b"no")]
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://me:s3cr3t-word@"))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://me:s3cr3t-word@"))
    for scheme in ("http", "https"):
        made = client(f"{scheme}://keen.example")
        for call in (KeenClient.collections, functools.partial(read, url=f"{scheme}://results.example/results/f")):
            with pytest.raises(ConfigurationError, match=f"407.*{scheme.upper()}_PROXY") as raised:
                call(made)
            assert "s3cr3t-word" not in str(raised.value)


@pytest.mark.parametrize("code", [403, 502, 302])
def test_refused_tunnel_is_no_connection(code: int, proxy: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.api = [status(code, b"<html>s3cr3t-word")]
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(UnreachableError, match=str(code)):
        read(client("https://keen.example"), "https://results.example/results/f")


def test_tunnel_that_never_answers_ends_in_time(proxy: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.api = [wire_faults.endless_continue()]
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    made = KeenClient("https://keen.example", "P1", read_key="read-key-77aa", connect_timeout=0.3, total_timeout=0.5)
    with pytest.raises(ServiceUnavailableError, match="no connection to keen"):
        made.collections()


def test_proxys_password_shows_nowhere(
    proxy: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    password = "hunter2-pa%40ss"
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", f"://me:{password}@"))
    echoed = f"hunter2-pa@ss {password} " + base64.b64encode(b"me:hunter2-pa@ss").decode()
    proxy.api = proxy.results = [status(400, f'{{"message": "{echoed}"}}'.encode())]
    made = client()
    connector = made._transport._connector
    shown = repr(made) + repr(vars(made._transport)) + repr(vars(connector)) + repr(connector.proxies.of(Address(False, "x", 80)))
    for call in (lambda: made.collections(), lambda: read(made, "http://results.example/results/f")):
        with pytest.raises(KeenPipelineError) as raised:
            call()
        shown += str(raised.value)
    for secret in echoed.split():
        assert secret not in shown + caplog.text
