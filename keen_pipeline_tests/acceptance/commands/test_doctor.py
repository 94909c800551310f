"""The ten likeliest misconfigurations, each found and told with what to fix, on real services, files and servers."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from keen_pipeline.cli import doctor as command
from keen_pipeline.cli import main
from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection
from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.lifecycle import Limits
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import partition_request
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.files.manifests import Manifest
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.settings import Settings
from keen_pipeline.testing import live_service
from keen_pipeline.wiring import open_destination, open_ledger, scope_of
from keen_pipeline_tests.ledgers import landing

PURCHASES = Collection("purchases", "2026-01-01")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with live_service() as service:
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key, write_key=service.write_key) as client:
            client.add_events({"purchases": [{"amount": 1, "user": {"id": 1}}]})
        yield service


@pytest.fixture
def well(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment where nothing is wrong."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "collections.yaml").write_text("collections:\n  - {name: purchases, start_date: 2026-01-01}\n")
    values = {
        "KEEN_BASE_URL": endpoint.base_url,
        "KEEN_PROJECT_ID": endpoint.project_id,
        "KEEN_READ_KEY": endpoint.read_key,
        "KEEN_PIPELINE_COLLECTIONS": "collections.yaml",
        "KEEN_PIPELINE_DESTINATION": str(tmp_path / "landing"),
        "KEEN_PIPELINE_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


Doctor = Callable[[], tuple[int, dict[str, tuple[bool, str]]]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs it; its exit status, and (whether it is well, message) by check."""

    def run() -> tuple[int, dict[str, tuple[bool, str]]]:
        monkeypatch.setattr(sys, "argv", ["keen-pipeline", "doctor", "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        checks = json.loads(capsys.readouterr().out)["checks"]
        return int(str(ended.value.code)), {check["name"]: (check["ok"], check["message"]) for check in checks}

    return run


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def wrong(doctor: Doctor) -> dict[str, str]:
    """What is wrong, by the name of its check."""
    status, checks = doctor()
    assert status == 1
    return {name: message for name, (well, message) in checks.items() if not well}


def test_nothing_is_wrong(well: pytest.MonkeyPatch, doctor: Doctor) -> None:
    status, checks = doctor()
    assert [name for name, (ok, _) in checks.items() if not ok] == []
    assert (status, len(checks)) == (0, 13)


NOWHERE = f"http://127.0.0.1:{unused_port()}"
CASES = {
    "the service is not there": (
        {"KEEN_BASE_URL": f"http://127.0.0.1:{unused_port()}"},
        {"service"},
        "no connection",
    ),
    "another project": ({"KEEN_PROJECT_ID": "another"}, {"key"}, "project"),
    "a wrong key": ({"KEEN_READ_KEY": "wrong-key-77"}, {"key"}, "KEEN_READ_KEY"),
    "no collections": ({"KEEN_PIPELINE_COLLECTIONS": ""}, {"collections"}, "KEEN_PIPELINE_COLLECTIONS is not set"),
    "a destination that can't be written": (
        {"KEEN_PIPELINE_DESTINATION": "/proc/landing"},
        {"destination"},
        "/proc/landing can't be written",
    ),
    "a storage that is none": ({"KEEN_PIPELINE_DESTINATION": "ftp://host/x"}, {"destination"}, "not supported"),
    "a ledger without driver": ({"KEEN_PIPELINE_LEDGER_URL": "nothing://u:s3cret@h/d"}, {"ledger"}, "driver"),
    "a variable that nobody reads": (
        {"KEEN_PIPELINE_DESTINATON": "/tmp"},
        {"variables"},
        "KEEN_PIPELINE_DESTINATON isn't a setting, KEEN_PIPELINE_DESTINATION is",
    ),
    "a digest without mail server": ({"KEEN_PIPELINE_DIGEST_TO": "a@example.com"}, {"mail"}, "SMTP_HOST"),
    "a mail server that is not there": ({"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(unused_port())}, {"mail"}, "SMTP_PORT"),
    "a password in clear": (
        {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(unused_port()), "SMTP_USER": "u", "SMTP_PASSWORD": "s3cret"},
        {"mail"},
        "sent in the clear: set SMTP_STARTTLS=true",
    ),
    "a home that is none": ({"DAGSTER_HOME": "not/absolute"}, {"dagster"}, "absolute"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_setting_is_found(well: pytest.MonkeyPatch, doctor: Doctor, case: str) -> None:
    values, names, words = CASES[case]
    for name, value in values.items():
        well.setenv(name, value)
    found = wrong(doctor)
    assert set(found) == names
    assert words in " ".join(found.values())
    assert not any(secret in " ".join(found.values()) for secret in ("wrong-key-77", "s3cret"))


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        ("{name: Purchases, start_date: 2026-01-01}", "names", "no collection Purchases; it has purchases"),
        ("{name: purchases, start_date: 2126-01-01}", "collections", "lies in the future"),
        ("{name: purchases, start_date: 2026-01-01, cron: 0 24 * * *}", "collections", "'0 24 * * *' in UTC isn't a schedule"),
        ("{name: purchases, start_date: 2026-01-01, mask: {body:amount: hash}}", "mask", "KEEN_PIPELINE_MASK_KEY"),
        (
            "{name: purchases, start_date: 2026-01-01, mask: {amout: drop}}",
            "properties",
            "no property body:amout (body:amount?)",
        ),
        (
            "{name: purchases, start_date: 2026-01-01, filters: [{property_name: amuont, operator: gt, property_value: 1}]}",
            "properties",
            "amuont",
        ),
        (
            "{name: purchases, start_date: 2026-01-01, filters: [{property_name: 'user:id', operator: gt, property_value: 1}]}",
            "properties",
            "no property user:id (body:user:id?)",
        ),
    ],
)
def test_a_wrong_collections_file_is_found(
    well: pytest.MonkeyPatch, doctor: Doctor, tmp_path: Path, line: str, name: str, words: str
) -> None:
    (tmp_path / "collections.yaml").write_text(f"collections:\n  - {line}\n")
    found = wrong(doctor)
    assert set(found) == {name}
    assert words in found[name]


@pytest.mark.parametrize(("smtp", "is_wrong"), [("", True), ("mail.test", False)])
def test_mail_that_the_embedded_service_can_not_send_is_found(
    well: pytest.MonkeyPatch, doctor: Doctor, tmp_path: Path, smtp: str, is_wrong: bool
) -> None:
    (tmp_path / "collections.yaml").write_text("collections:\n  - {name: purchases, email: ada@example.com}\n")
    well.setattr("keen_pipeline.cli.doctor.connected", lambda _: nullcontext(SimpleNamespace(noop=lambda: None)))
    well.setenv("SMTP_HOST", smtp)
    assert doctor()[1]["mail"][0]  # Keen itself has a mail server
    for name in ("KEEN_BASE_URL", "KEEN_PROJECT_ID", "KEEN_READ_KEY"):
        well.delenv(name)
    assert ("email of purchases is set, but there is no mail server: set SMTP_HOST" in doctor()[1]["mail"][1]) is is_wrong


def test_properties_may_be_spelled_in_each_of_keens_ways(well: pytest.MonkeyPatch, doctor: Doctor, tmp_path: Path) -> None:
    names = ["user.id", "body:user:id", "amount", "header:timestamp", "keen.timestamp"]
    filters = ", ".join(f"{{property_name: '{name}', operator: gt, property_value: 1}}" for name in names)
    mask = "{user: drop, amount: drop, 'header:timestamp': mask}"
    (tmp_path / "collections.yaml").write_text(f"collections:\n  - {{name: purchases, filters: [{filters}], mask: {mask}}}\n")
    assert doctor()[1]["properties"] == (True, "filters and masks name properties that the collections have")


def test_a_schema_that_can_t_be_had_hides_no_other_collections_mask(
    well: pytest.MonkeyPatch, doctor: Doctor, tmp_path: Path
) -> None:
    masked = "mask: {amuont: drop}"
    (tmp_path / "collections.yaml").write_text(f"collections:\n- {{name: away, {masked}}}\n- {{name: purchases, {masked}}}\n")
    asked = KeenClient.property_types

    def types(client: KeenClient, collection: str) -> Mapping[str, str]:
        if collection == "away":
            raise ServiceUnavailableError("its schema is away")
        return asked(client, collection)

    well.setattr(KeenClient, "property_types", types)
    well.setattr(KeenClient, "collections", lambda _: ["away", "purchases"])
    told = wrong(doctor)["properties"]
    assert told.startswith("away: its schema is away; purchases has no property body:amuont (body:amount?), which a filter or mask")


def test_another_ledger_that_lands_at_the_same_place_is_found(
    well: pytest.MonkeyPatch, doctor: Doctor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day = (datetime.now(timezone.utc) - timedelta(days=1)).date().isoformat()
    well.setattr(sys, "argv", ["keen-pipeline", "backfill", "purchases", "--from", day, "--to", day])
    with pytest.raises(SystemExit):
        main()
    capsys.readouterr()
    assert doctor()[1]["manifests"] == (True, "the ledger knows the 1 manifests that were looked at")
    well.setenv("KEEN_PIPELINE_LEDGER_URL", f"sqlite:///{tmp_path}/another.db")
    assert wrong(doctor)["manifests"].startswith("1 of 1 landed files at ")
    well.setenv("KEEN_PIPELINE_NAME", "second")
    told = wrong(doctor)["manifests"]
    assert f"holds files of another ledger, such as purchases/{day}.csv (keen: projects/" in told
    well.setattr(sys, "argv", ["keen-pipeline", "backfill", "purchases", "--from", day, "--to", day])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, "another ledger" in capsys.readouterr().err) == (1, True)


def test_files_of_others_and_what_a_person_cancelled_are_not_wrong(well: pytest.MonkeyPatch, endpoint: Endpoint) -> None:
    settings = Settings.from_environment()
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    destination = open_destination(settings.destination, {})
    days = [partition_request(PURCHASES, p) for p in partition_range(PURCHASES, "2026-01-01", "2026-01-02", ledger.clock.now())]
    asked = [one.entry for one in ledger.request(days)]
    landed = [replace(one, landing=landing(destination.uri_of(one.request.path))) for one in asked]
    manifests.write(destination, Manifest.of(landed[0], replace(ledger.scope, source="projects/others"), ledger.clock.now()))
    assert command._manifests(settings) == "the ledger knows the 0 manifests that were looked at"
    manifests.write(destination, Manifest.of(replace(landed[1], token="f" * 16), ledger.scope, ledger.clock.now()))
    with pytest.raises(ConfigurationError, match=r"^1 of 1 landed files at "):
        command._manifests(settings)
    ledger.cancel([asked[0].entry_id], "by a person")
    assert command._partitions(settings) == "0 landed, none missing between the first and today, none given up"
    ledger.fail(asked[1].entry_id, "it broke", limits=Limits(), final=True)
    with pytest.raises(ConfigurationError, match=r"^purchases has 1 given up: keen-pipeline retry purchases 2026-01-02$"):
        command._partitions(settings)


def test_a_dagster_home_without_daemon_is_found(well: pytest.MonkeyPatch, doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    well.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert "no daemon runs" in wrong(doctor)["dagster"]


@pytest.mark.parametrize(("minutes", "told"), [(4, "a daemon runs for"), (6, "the last one was heard of 6 minutes ago")])
def test_a_daemon_that_was_not_heard_of_for_five_minutes_is_none(
    well: pytest.MonkeyPatch, tmp_path: Path, minutes: int, told: str
) -> None:
    heard = SimpleNamespace(timestamp=time.time() - minutes * 60)
    well.setattr(dg.DagsterInstance, "get_daemon_heartbeats", lambda self: {"SENSOR": heard})
    well.setenv("DAGSTER_HOME", str(tmp_path))
    with nullcontext() if minutes < 5 else pytest.raises(ConfigurationError, match=told):
        assert command._dagster(Settings.from_environment()).startswith(told)


def test_a_dagster_home_that_cant_be_opened_hides_nothing_else(well: pytest.MonkeyPatch, doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("storage: {nonsense: true}")
    well.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert "check its dagster.yaml" in wrong(doctor)["dagster"]


def test_each_check_is_told_when_it_is_done(well: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a service that hangs nothing had been told for two minutes, not even what was well."""

    def hangs(_: Settings) -> str:
        raise KeyboardInterrupt

    well.setattr(command, "_CHECKS", {"mask": (lambda _: "fine", ()), "service": (hangs, ())})
    well.setattr(sys, "argv", ["keen-pipeline", "doctor"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out == "ok    mask: fine\n"
