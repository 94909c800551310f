"""What a storage refuses: for a person, or for a further try."""

from __future__ import annotations

import pytest

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, ServiceUnavailableError
from keen_pipeline.landing import FileDestination
from keen_pipeline_tests.contract.storages.places import Place, behind, outcome
from keen_pipeline_tests.servers import proxy
from keen_pipeline_tests.servers.proxy import HttpProxy

pytestmark = pytest.mark.usefixtures("quick")
OLD = b"old"


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (301, "PermanentRedirect", "the bucket lies in another region (PermanentRedirect)"),
        (400, "AuthorizationHeaderMalformed", "the bucket lies in another region"),
        (400, "ExpiredToken", "access was refused (ExpiredToken)"),
        (403, "RequestTimeTooSkewed", "access was refused (RequestTimeTooSkewed) on PutObject"),
        (403, "CodeOfTomorrow", "access was refused (CodeOfTomorrow) on PutObject"),
        (400, "KMS.DisabledException", "the service refuses what it was asked (KMS.DisabledException) on PutObject"),
        (400, "InvalidBucketName", "the service refuses what it was asked"),
        (507, "507", "the service refuses what it was asked"),
    ],
)
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_word_of_s3_that_a_person_has_to_act_on(place: Place, between: HttpProxy, status: int, code: str, said: str) -> None:
    destination = behind(place, between)
    between.fault = proxy.only(proxy.refused(status, code))
    error = outcome(destination, OLD)
    assert isinstance(error, ConfigurationError)
    assert said in str(error)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "CodeOfTomorrow", ConfigurationError),
        (413, "RequestBodyTooLarge", ConfigurationError),
        (409, "OperationAborted", ServiceUnavailableError),
        (425, "TooEarly", ServiceUnavailableError),
        (502, "BadGateway", ServiceUnavailableError),
    ],
)
@pytest.mark.parametrize("place", ["s3", "gcs", "azure"], indirect=True)
def test_refusal_that_no_further_try_ends_is_for_a_person(
    place: Place, between: HttpProxy, status: int, code: str, expected: type[KeenPipelineError]
) -> None:
    destination = behind(place, between)
    between.fault = proxy.only(proxy.refused(status, code))
    assert type(outcome(destination, OLD)) is expected


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_key_that_is_too_long_for_s3_is_for_a_person(place: Place) -> None:
    destination = FileDestination(f"{place.root}/{'a' * 900}/{'b' * 200}", transport=place.transport)
    error = outcome(destination, OLD)
    assert isinstance(error, ConfigurationError)
    assert "KeyTooLongError" in str(error)


@pytest.mark.parametrize(("place", "said"), [("s3", "DeleteObject"), ("gcs", "DELETE"), ("azure", "DELETE")], indirect=["place"])
def test_what_was_refused_is_said(place: Place, between: HttpProxy, said: str) -> None:
    destination = behind(place, between)
    between.fault = lambda to: to.command == "DELETE" and proxy.refused(403, "AccessDenied")(to)
    with pytest.raises(ConfigurationError, match=rf"access was refused \([\w ]+\) on {said}"):
        destination.probe()
