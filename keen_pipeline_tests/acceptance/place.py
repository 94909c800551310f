"""The command line in this process, on a destination and a ledger of its own: a command takes milliseconds, not seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.cli import main
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_database, scope_of


@dataclass
class Here:
    """As `processes.Shell`, in this process."""

    folder: Path
    env: Mapping[str, str]
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`keen-pipeline words...` in the folder, with these settings and no others."""
        for name in [name for name in os.environ if name.startswith(("KEEN_", "DAGSTER_HOME", "SMTP_"))]:
            self.monkeypatch.delenv(name)
        # Engines are kept by their URL, so a relative one would be that of the folder before.
        kept = {"KEEN_PIPELINE_POLL_SECONDS": "0.2", "KEEN_PIPELINE_LEDGER_URL": f"sqlite:///{self.folder}/data/ledger.db"}
        for name, value in {**kept, **self.env}.items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setattr(sys, "argv", ["keen-pipeline", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capsys.readouterr()
        return subprocess.CompletedProcess(words, int(str(ended.value.code)), out, err)


@dataclass
class Place:
    """A destination with a ledger, and the command line on it, in this process."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["keen-pipeline", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capsys.readouterr()
        return int(str(ended.value.code)), out, err

    def json(self, *words: str) -> tuple[int, Any]:
        status, out, err = self.run(*words, "--json")
        return status, json.loads(out) if out else err

    def collections(self, options: str) -> None:
        (self.folder / "collections.yaml").write_text(
            f"collections: [{{name: purchases, start_date: 2026-01-01{', ' + options if options else ''}}}]"
        )

    def file(self, key: str, suffix: str = "csv") -> Path:
        return self.folder / "landing" / "purchases" / f"{key}.{suffix}"

    def manifest(self, key: str, suffix: str = "csv") -> Path:
        return self.folder / "landing" / "_manifests" / "purchases" / f"{key}.{suffix}.json"

    def extraction_ids(self) -> dict[str, str | None]:
        settings = Settings.from_environment()
        ledger = SqlLedger(open_database(settings.ledger_url), scope_of(settings))
        return {e.request.partition_key: e.extraction_id for e in ledger.landed_entries("purchases")}


def make_place(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    """A place where `purchases` of a service is configured, daily from January 2026 on."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "KEEN_BASE_URL": endpoint.base_url,
        "KEEN_PROJECT_ID": endpoint.project_id,
        "KEEN_READ_KEY": endpoint.read_key,
        "KEEN_PIPELINE_COLLECTIONS": "collections.yaml",
        "KEEN_PIPELINE_DESTINATION": str(tmp_path / "landing"),
        "KEEN_PIPELINE_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
        "KEEN_PIPELINE_POLL_SECONDS": "0.1",
        "KEEN_PIPELINE_MASK_KEY": "a key of the acceptance tests",
    }.items():
        monkeypatch.setenv(name, value)
    place = Place(tmp_path, monkeypatch, capsys)
    place.collections("")
    return place
