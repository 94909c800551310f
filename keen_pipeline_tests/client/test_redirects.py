"""Redirects of API calls: followed within the service, with a bound, and never with the key to another host."""

from __future__ import annotations

import pytest

from keen_pipeline.client import KeenClient, transport
from keen_pipeline.errors import (
    ConfigurationError,
    KeenPipelineError,
    UnreadableAnswerError,
)
from keen_pipeline_tests.client.calls import DAY, REQUEST
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.faults import FaultServer, document


def test_redirect_within_the_service_is_followed(client: KeenClient, server: FaultServer) -> None:
    server.api = [faults.redirect("/elsewhere", 307), document({"result": 3})]
    assert client.count("purchases", DAY) == 3
    assert server.requests[1].target == "/elsewhere"


@pytest.mark.parametrize(
    ("location", "target"),
    [("/a#part", "/a"), ("?b=1", "/2.0/projects/P1/purchases/_count?b=1"), ("//{place}?b=1", "/?b=1"), ("/é", "/%C3%A9")],
)
def test_redirect_asks_for_what_its_location_names(location: str, target: str, client: KeenClient, server: FaultServer) -> None:
    server.api = [faults.redirect(location.format(place=f"127.0.0.1:{server.port}")), document({"result": 3})]
    assert client.count("purchases", DAY) == 3
    assert server.requests[1].target == target


def test_redirected_post_says_what_to_set(client: KeenClient, server: FaultServer) -> None:
    server.api = [faults.redirect("https://api.keen.io/2.0", 301)]
    with pytest.raises(UnreadableAnswerError, match="KEEN_BASE_URL"):
        client.submit(REQUEST)
    assert len(server.requests) == 1


def test_redirects_have_a_bound(client: KeenClient, server: FaultServer) -> None:
    server.api = [faults.redirect("/again")]
    with pytest.raises(UnreadableAnswerError, match="redirects"):
        client.count("purchases", DAY)
    assert len(server.requests) == transport.MOST_REDIRECTS + 1


def test_key_never_goes_to_another_host(client: KeenClient, server: FaultServer) -> None:
    with FaultServer(api=[document({"result": 3})]) as other:
        server.api = [faults.redirect(other.url + "/stolen")]
        with pytest.raises(ConfigurationError, match="KEEN_BASE_URL"):
            client.count("purchases", DAY)
        with pytest.raises(UnreadableAnswerError):
            client.submit(REQUEST)
        assert other.requests == []


@pytest.mark.parametrize("location", ["http://[::1", "http://127.0.0.1:99999/x", "\xff\xfe", "//"])
def test_bad_location_is_an_error_of_ours(location: str, client: KeenClient, server: FaultServer) -> None:
    server.api = [faults.redirect(location)]
    with pytest.raises(KeenPipelineError, match="P1"):
        client.count("purchases", DAY)
