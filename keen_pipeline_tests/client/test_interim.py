"""Answers that come before the answer: they are read over."""

from __future__ import annotations

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.errors import AuthenticationError, KeenPipelineError
from keen_pipeline_tests.client.calls import DAY, REQUEST
from keen_pipeline_tests.servers import faults, wire_faults
from keen_pipeline_tests.servers.faults import FaultServer


@pytest.mark.parametrize(
    "interim", [("103 Early Hints",), ("102 Processing", "103 Early Hints", "199 Anything"), ("100 Continue",)]
)
def test_interim_answer_is_not_the_answer(interim: tuple[str, ...], client: KeenClient, server: FaultServer) -> None:
    server.api = [wire_faults.hinted(faults.document({"result": 7}), *interim)]
    assert client.count("purchases", DAY) == 7
    server.api = [wire_faults.hinted(faults.document({"message": "no"}, 403), *interim)]
    with pytest.raises(AuthenticationError):
        client.count("purchases", DAY)


def test_switched_protocol_is_no_answer(client: KeenClient, server: FaultServer) -> None:
    server.api = [wire_faults.raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: close\r\n\r\n")]
    with pytest.raises(KeenPipelineError):
        client.submit(REQUEST)
    assert len(server.requests) == 1
