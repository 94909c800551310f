"""A person's extraction of a collection whose file says what to mask."""

from __future__ import annotations

import csv
from pathlib import Path

from keen_pipeline_tests.acceptance.processes import Shell


def test_an_ad_hoc_extraction_is_masked_as_the_collection_is(tmp_path: Path) -> None:
    collections = tmp_path / "collections.yaml"
    mask = "{'body:email': hash, 'body:phone': drop, 'body:note': mask}"
    collections.write_text(f"collections:\n  - name: signups\n    start_date: 2026-01-01\n    mask: {mask}\n")
    shell = Shell(tmp_path, {"KEEN_PIPELINE_COLLECTIONS": str(collections)})
    events = (
        '{"email": "ann@example.com", "phone": "+49 30", "note": "calls at night", "keen": {"timestamp": "2026-01-05T10:00:00Z"}}\n'
    )
    assert shell.run("load", "signups", "-", stdin=events).returncode == 0
    window = ["--from", "2026-01-05", "--to", "2026-01-06", "--to", "./files"]
    refused = shell.run("extract", "signups", *window)
    assert refused.returncode == 1
    assert "KEEN_PIPELINE_MASK_KEY" in refused.stderr
    assert not (tmp_path / "files").exists()
    keyed = Shell(tmp_path, {**shell.env, "KEEN_PIPELINE_MASK_KEY": "a key of the acceptance tests"})
    assert keyed.run("extract", "signups", *window).returncode == 0
    [file] = (tmp_path / "files" / "signups").iterdir()
    [row] = csv.DictReader(file.read_text().splitlines())
    assert set(row) == {"header:timestamp", "body:email", "body:note"}
    assert row["body:note"] == "***"
    assert len(row["body:email"]) == 32
    listed = keyed.run("list", "signups", "email")
    said = "keen-pipeline: signups: email is masked, so its values can't be listed\n"
    assert (listed.returncode, listed.stdout, listed.stderr) == (1, "", said)
    assert shell.await_nothing_left() == []
    assert keyed.await_nothing_left() == []
