"""The fields of the resources: the environment may stand for each, and a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from keen_pipeline import (
    Collection,
    CsvDestination,
    ExtractionLedger,
    KeenResource,
    TableDatabase,
    build_keen_definitions,
)
from keen_pipeline.defs.sensors.notifications import KeenNotifications, channels_of
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.scope import Scope
from keen_pipeline.settings import KEEN_URL, Settings, SftpSecrets

WORDS = {
    "base_url": "http://127.0.0.1:9",
    "project_id": "p1",
    "read_key": "secret-key",
    "api_version": "3.0",
    "budget": "shared",
    "retry_seconds": "0.5",
    "poll_seconds": "0.25",
    "lease_seconds": "7.5",
}
NUMBERS = {"requests_per_minute": 77, "max_attempts": 4}


def settings_of(resource: KeenResource) -> Settings:
    """As a run resolves it."""
    with resource.process_config_and_initialize_cm() as resolved:
        return resolved.settings()


def test_the_environment_may_stand_for_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(KeenResource.model_fields) == {*WORDS, *NUMBERS}
    given: dict[str, object] = {}
    for name, value in {**WORDS, **NUMBERS}.items():
        monkeypatch.setenv(f"OUR_{name.upper()}", str(value))
        variable = f"OUR_{name.upper()}"
        given[name] = dg.EnvVar.int(variable) if name in NUMBERS else dg.EnvVar(variable)
    settings = settings_of(KeenResource(**given))  # type: ignore[arg-type]
    seconds = {name: float(value) for name, value in WORDS.items() if name.endswith("_seconds")}
    assert {name: getattr(settings, name) for name in given} == {**WORDS, **NUMBERS, **seconds}


def test_a_misspelt_variable_is_warned_of_once_by_each_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_DESTINATOIN", "./elsewhere")
    for _ in range(3):
        settings_of(KeenResource())
    assert [one.getMessage().split(" isn't")[0] for one in caplog.records] == ["KEEN_PIPELINE_DESTINATOIN"]


def test_words_of_others_about_mail_keep_nothing_from_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_HOST", "mail.example")
    monkeypatch.setenv("SMTP_PORT", "smtps")
    monkeypatch.setenv("KEEN_PIPELINE_SLACK_WEBHOOK", "https://hooks.slack.example/s3cret")
    build_keen_definitions([Collection("purchases")])
    assert channels_of(Settings.from_environment()).names == {"slack"}
    with pytest.raises(ConfigurationError, match=r"^SMTP_PORT must be a whole number"):
        build_keen_definitions([Collection("purchases")], notifications=KeenNotifications(mail_to=["me@example.com"]))


def test_numbers_may_be_given_as_numbers() -> None:
    settings = settings_of(KeenResource(poll_seconds=0.25, retry_seconds=0, lease_seconds=90))
    assert (settings.poll_seconds, settings.retry_seconds, settings.lease_seconds) == (0.25, 0.0, 90.0)


def test_the_other_resources_take_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_PLACE", "/landing/zone")
    with CsvDestination(uri=dg.EnvVar("OUR_PLACE"), options={}).process_config_and_initialize_cm() as destination:
        assert destination.open().uri == "/landing/zone"
    with ExtractionLedger(url=dg.EnvVar("OUR_PLACE")).process_config_and_initialize_cm() as ledger:
        assert ledger.url == "/landing/zone"


def test_so_do_options_and_destinations_of_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_ENDPOINT", "http://127.0.0.1:9\n")
    monkeypatch.setenv("OUR_SECONDS", "30")
    monkeypatch.setenv("OUR_DLT", "duckdb")
    for uri, options in (
        ("s3://bucket/x", {"endpoint": dg.EnvVar("OUR_ENDPOINT")}),
        ("sftp://us@host/x", {"timeout_seconds": dg.EnvVar.int("OUR_SECONDS")}),
    ):
        with CsvDestination(uri=uri, options=options).process_config_and_initialize_cm() as destination:
            assert destination.open().uri == uri
    with TableDatabase(destination=dg.EnvVar("OUR_DLT")).process_config_and_initialize_cm() as database:
        assert database.open().destination.destination_name == "duckdb"
    unset = CsvDestination(uri="s3://bucket/x", options={"endpoint": dg.EnvVar("OUR_UNSET")})
    with unset.process_config_and_initialize_cm() as destination, pytest.raises(ConfigurationError) as told:
        destination.open()
    assert str(told.value) == "destination: option endpoint: the variable OUR_UNSET is not set"


def test_the_line_end_of_a_variable_makes_no_other_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_LEDGER", f"sqlite:///{tmp_path / 'ledger.db'}\n")
    with ExtractionLedger(url=dg.EnvVar("OUR_LEDGER")).process_config_and_initialize_cm() as ledger:
        assert ledger.open(Scope("projects/p", "/landing")).open_entries() == []
    assert (tmp_path / "ledger.db").is_file()
    with TableDatabase(url=dg.EnvVar("OUR_LEDGER")).process_config_and_initialize_cm() as database:
        assert database.open().file == tmp_path / "ledger.db"
    monkeypatch.setenv("KEEN_PIPELINE_SFTP_PASSWORD", "s3cret \r\n")
    assert SftpSecrets.from_environment().password == "s3cret "


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("requests_per_minute", 0, "between 1 and 100000"),
        ("max_attempts", 101, "between 1 and 100"),
        ("poll_seconds", 0.01, "between 0.05 and 3600"),
        ("lease_seconds", 1.0, "between 2 and 86400"),
        ("api_version", "4.0", "one of 2.0, 3.0"),
        ("base_url", "api.keen.io", "starts with http"),
        ("project_id", " ", "is empty or holds characters"),
    ],
)
def test_a_wrong_value_is_told_with_its_field(field: str, value: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        settings_of(KeenResource(**{field: value}))  # type: ignore[arg-type]
    assert f"resource field {field}" in str(told.value)
    assert said in str(told.value)


@pytest.mark.parametrize("variable", ["KEEN_PROJECT_ID", "KEEN_READ_KEY", "KEEN_MASTER_KEY"])
def test_an_account_without_an_address_is_keens_own(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    assert settings_of(KeenResource()).is_embedded
    monkeypatch.setenv(variable, "given")
    settings = settings_of(KeenResource())
    assert (settings.base_url, settings.is_embedded) == (KEEN_URL, False)


@pytest.mark.parametrize("field", ["project_id", "read_key"])
def test_so_is_one_in_fields(field: str) -> None:
    assert settings_of(KeenResource(**{field: "given"})).base_url == KEEN_URL  # type: ignore[arg-type]


def test_no_service_starts_for_an_account(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from keen_pipeline.service import embedded

    def starts(*_: object, **__: object) -> None:
        raise AssertionError("the embedded service was started")

    monkeypatch.setattr(embedded, "ensure", starts)
    monkeypatch.setenv("KEEN_PROJECT_ID", "p1")
    monkeypatch.setenv("KEEN_READ_KEY", "k1")
    with KeenResource().client() as client:
        assert client.base_url == KEEN_URL
    monkeypatch.delenv("KEEN_PROJECT_ID")
    with pytest.raises(ConfigurationError, match="KEEN_PROJECT_ID is not set"):
        KeenResource().client()
