"""The environment: every variable, and every way to get one wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.settings import KEEN_URL, VARIABLES, Settings, SftpSecrets, Variable, unknown_variables
from keen_pipeline.wiring import open_client


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
            "KEEN_PIPELINE_DESTINATION_OPTIONS": '{"region": "eu", "account_key": "0pen"}',
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
    assert settings.destination_options == {"region": "eu", "account_key": "0pen"}
    assert settings.smtp is not None
    assert (settings.smtp.port, settings.smtp.starttls) == (587, True)
    assert "r3ad" not in repr(settings)
    assert "s3cret" not in repr(settings)
    assert "0pen" not in repr(settings)


def test_lists() -> None:
    env = {"KEEN_PIPELINE_SERVICE_MAIL_TO": "ada@b.example, @c.example d.example;e", "KEEN_PIPELINE_SERVICE_REDIRECT_HOSTS": "a.b"}
    settings = Settings.from_environment(env)
    assert settings.service_mail_to == ("ada@b.example", "@c.example", "d.example", "e")
    assert settings.service_redirect_hosts == ("a.b",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEN_PIPELINE_COLLECTIONS", "~nobody_here/collections.yaml"),
        ("KEEN_BASE_URL", "ftp://keen"),
        ("KEEN_BASE_URL", "https://"),
        ("KEEN_BASE_URL", "https:///projects"),
        ("KEEN_BASE_URL", "api.keen.io"),
        ("KEEN_BASE_URL", "http://keen:99999"),
        ("KEEN_BASE_URL", "http://keen:port"),
        ("KEEN_BASE_URL", "http://[::1"),
        ("KEEN_BASE_URL", "https://user:s3cret@api.keen.io"),
        ("KEEN_BASE_URL", "https://api.keen.io?api_key=s3cret"),
        ("KEEN_BASE_URL", "https://api.keen.io#s3cret"),
        ("KEEN_BASE_URL", "https://api.keen.io/2.0"),
        ("KEEN_BASE_URL", "https://api.keen.io/3.0/projects/p1"),
        ("KEEN_PROJECT_ID", "p 1"),
        ("KEEN_READ_KEY", "s3cret s3cret"),
        ("KEEN_READ_KEY", "s3cret\ns3cret"),
        ("KEEN_WRITE_KEY", "s3cret\u00e9"),
        ("KEEN_MASTER_KEY", "s3cret\0"),
        ("KEEN_PIPELINE_NAME", "my pipeline"),
        ("KEEN_PIPELINE_NAME", "1st"),
        ("KEEN_PIPELINE_NAME", "keen_"),
        ("KEEN_READ_KEY", '"s3cret"'),  # as Docker's --env-file keeps quotes
        ("KEEN_PIPELINE_DESTINATION", "'./landing'"),
        ("KEEN_PIPELINE_LEDGER_URL", "sqlite://"),  # lost with each process
        ("KEEN_PIPELINE_LEDGER_URL", "sqlite:///:memory:"),
        ("KEEN_PIPELINE_LEDGER_URL", "sqlite+pysqlite:///?timeout=5"),
        ("KEEN_PIPELINE_DIGEST_AT", "25:99"),
        ("KEEN_PIPELINE_DIGEST_AT", "6:00"),
        ("KEEN_PIPELINE_DIGEST_AT", "24:00"),
        ("KEEN_PIPELINE_DIGEST_TO", "me"),
        ("KEEN_PIPELINE_DIGEST_TO", "a@b.example, you"),
        ("KEEN_PIPELINE_SERVICE_MAIL_TO", ","),  # would allow all
        ("KEEN_PIPELINE_SERVICE_MAIL_TO", "*@example.com"),
        ("KEEN_PIPELINE_SERVICE_MAIL_TO", "example.com, *.example.com"),
        ("KEEN_PIPELINE_SERVICE_REDIRECT_HOSTS", "https://example.com"),
        ("KEEN_PIPELINE_SERVICE_REDIRECT_HOSTS", "example.com:8080"),
        ("KEEN_PIPELINE_DIGEST_ATTACHMENT_BYTES", "1e6"),
        ("KEEN_PIPELINE_SLACK_WEBHOOK", "hooks.slack.example/s3cret"),
        ("KEEN_PIPELINE_UI_URL", "localhost:3000"),
        ("KEEN_PIPELINE_MASK_KEY", "s3cret"),
        ("KEEN_PIPELINE_LEASE_SECONDS", "1"),
        ("KEEN_PIPELINE_LEASE_SECONDS", "inf"),
        ("KEEN_PIPELINE_MAX_EXTRACTION_EVENTS", "0"),
        ("KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS", "perhaps"),
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
    with pytest.raises(ConfigurationError, match=rf"^{name}\b") as refused:
        _ = Settings.from_environment({name: value, "SMTP_HOST": "mail.example"}).smtp
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_a_wrong_value_is_told_in_short_however_long_it_is(variable: Variable) -> None:
    told = ""
    try:
        Settings.from_environment({variable.name: "x" * 9999})
    except ConfigurationError as error:
        told = str(error)
    assert len(told) < 200


def test_a_key_from_a_file_keeps_no_line_end() -> None:
    settings = Settings.from_environment({"KEEN_READ_KEY": "r3ad\n", "KEEN_PROJECT_ID": " p\r\n"})
    assert (settings.read_key, settings.project_id) == ("r3ad", "p")


def test_a_password_from_a_file_keeps_no_line_end_and_all_its_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_SFTP_PASSWORD", " s3cret \r\n")
    monkeypatch.setenv("KEEN_PIPELINE_SFTP_KEY_PASSPHRASE", "\n")
    assert SftpSecrets.from_environment() == SftpSecrets(" s3cret ", None)


@pytest.mark.parametrize("name", ["KEEN_PROJECT_ID", "KEEN_READ_KEY", "KEEN_WRITE_KEY", "KEEN_MASTER_KEY"])
def test_an_account_without_an_address_is_at_keen(name: str) -> None:
    assert Settings.from_environment({name: "x1"}).base_url == KEEN_URL
    assert not Settings.from_environment({name: "x1"}).is_embedded
    assert Settings.from_environment({name: "x1", "KEEN_BASE_URL": "http://127.0.0.1:1"}).base_url == "http://127.0.0.1:1"
    assert Settings.from_environment({}).is_embedded


def test_a_variable_that_nothing_reads_is_named() -> None:
    environment = {
        "KEEN_PIPELINE_MAX_ATEMPTS": "3",
        "KEEN_PIPELINE_POLL_SECONDS": "2",
        "KEEN_PIPELINE_SFTP_PASSWORD": "s3cret",
        "KEEN_OTHER": "1",
        "KEEN_PIPELINE_NOTHING": " ",
    }
    assert unknown_variables(environment) == ("KEEN_PIPELINE_MAX_ATEMPTS",)
    assert Settings.from_environment(environment).unknown == ("KEEN_PIPELINE_MAX_ATEMPTS",)


def test_every_variable_sets_a_field_of_its_own_and_says_what_it_means() -> None:
    assert len({one.field for one in VARIABLES}) == len({one.name for one in VARIABLES}) == len(VARIABLES)
    assert {one.field for one in VARIABLES} | {"smtp_variables", "unknown"} == set(Settings.__dataclass_fields__)
    assert all(one.meaning for one in VARIABLES)


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("KEEN_PIPELINE_LEASE_SECONDS", "2", "lease_seconds", 2.0),
        ("KEEN_PIPELINE_RETRY_SECONDS", "600", "retry_seconds", 600.0),
        ("KEEN_PIPELINE_POLL_SECONDS", "0.05", "poll_seconds", 0.05),
        (
            "KEEN_PIPELINE_DIGEST_TO",
            "a@b.example; c@d.example e@f.example",
            "digest_to",
            ("a@b.example", "c@d.example", "e@f.example"),
        ),
        ("KEEN_PIPELINE_DIGEST_AT", "23:59", "digest_at", "23:59"),
        ("KEEN_PIPELINE_MASK_KEY", "0123456789abcdef", "mask_key", b"0123456789abcdef"),
        ("KEEN_PIPELINE_MASK_KEY", '"0123456789abcd"', "mask_key", b'"0123456789abcd"'),  # somebody's hashes are made with them
        ("KEEN_PIPELINE_NAME", "events_2", "name", "events_2"),
        ("KEEN_API_VERSION", "3.0", "api_version", "3.0"),
        ("KEEN_PIPELINE_BUDGET", "organization", "budget", "organization"),
    ],
)
def test_values_at_their_bounds(name: str, value: str, field: str, read: object) -> None:
    assert getattr(Settings.from_environment({name: value}), field) == read


@pytest.mark.parametrize(("text", "allowed"), [("true", True), ("0", False), ("", None)])
def test_a_results_url_may_lead_to_a_private_address_where_that_is_said(text: str, allowed: bool | None) -> None:
    environment = {"KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS": text, "KEEN_BASE_URL": "https://93.184.216.34", "KEEN_PROJECT_ID": "p"}
    settings = Settings.from_environment(environment)
    assert settings.allow_private_results is allowed
    client = open_client(settings, None)
    assert client._results.allow_private is (allowed or False)  # a public service: only where it is said
    with pytest.raises(ConfigurationError, match="KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS must be true or false"):
        Settings.from_environment({"KEEN_PIPELINE_ALLOW_PRIVATE_RESULTS": "perhaps"})
