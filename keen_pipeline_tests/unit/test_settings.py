"""The environment: every variable, and every way to get one wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from keen_pipeline.pipeline.adapters import open_client

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.settings import Settings


def test_defaults() -> None:
    settings = Settings.from_environment({"KEEN_BASE_URL": "  ", "SMTP_HOST": ""})
    assert settings == Settings()
    assert (settings.destination, settings.requests_per_minute, settings.poll_seconds) == ("./data/landing", 200, 5.0)


def test_all_of_it() -> None:
    settings = Settings.from_environment(
        {
            "KEEN_BASE_URL": "https://api.keen.io/",
            "KEEN_PROJECT_ID": "p",
            "KEEN_READ_KEY": "r3ad",
            "KEEN_PIPELINE_COLLECTIONS": "c.yaml",
            "KEEN_PIPELINE_RETRY_SECONDS": "0.5",
            "KEEN_PIPELINE_DESTINATION_OPTIONS": '{"region": "eu"}',
            "KEEN_PIPELINE_MAX_ATTEMPTS": "7",
            "KEEN_PIPELINE_PARTITIONS_PER_RUN": "30",
            "SMTP_HOST": "mail.example",
            "SMTP_PORT": "587",
            "SMTP_PASSWORD": "s3cret",
            "SMTP_STARTTLS": "true",
        }
    )
    assert settings.base_url == "https://api.keen.io"
    assert (settings.collections_file, settings.retry_seconds, settings.max_attempts) == (Path("c.yaml"), 0.5, 7)
    assert (settings.partitions_per_run, Settings().partitions_per_run) == (30, None)
    assert settings.destination_options == {"region": "eu"}
    assert settings.smtp is not None
    assert (settings.smtp.port, settings.smtp.starttls) == (587, True)
    assert "r3ad" not in repr(settings)
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEN_BASE_URL", "ftp://keen"),
        ("KEEN_API_VERSION", "4.0"),
        ("KEEN_PIPELINE_REQUESTS_PER_MINUTE", "0"),
        ("KEEN_PIPELINE_REQUESTS_PER_MINUTE", "1.5"),
        ("KEEN_PIPELINE_POLL_SECONDS", "soon"),
        ("KEEN_PIPELINE_POLL_SECONDS", "nan"),
        ("KEEN_PIPELINE_RETRY_SECONDS", "601"),
        ("KEEN_PIPELINE_MAX_ATTEMPTS", "-1"),
        ("KEEN_PIPELINE_PARTITIONS_PER_RUN", "0"),
        ("KEEN_PIPELINE_DESTINATION_OPTIONS", "endpoint=x"),
        ("KEEN_PIPELINE_DESTINATION_OPTIONS", "[]"),
        ("SMTP_PORT", "99999"),
        ("SMTP_STARTTLS", "perhaps"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_environment({name: value, "SMTP_HOST": "mail.example"})


@pytest.mark.parametrize(("text", "allowed"), [("true", True), ("0", False), ("", None)])
def test_a_results_url_may_lead_to_a_private_address_where_that_is_said(text: str, allowed: bool | None) -> None:
    environment = {"KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS": text, "KEEN_BASE_URL": "https://93.184.216.34", "KEEN_PROJECT_ID": "p"}
    settings = Settings.from_environment(environment)
    assert settings.allow_private_results is allowed
    client = open_client(settings, None)
    assert client._results._allow_private is (allowed or False)  # a public service: only where it is said
    with pytest.raises(ConfigurationError, match="KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS must be true or false"):
        Settings.from_environment({"KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS": "perhaps"})
