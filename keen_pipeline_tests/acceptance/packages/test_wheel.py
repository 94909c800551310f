"""The wheel in a clean environment, in a project that `create-dagster` made, with our component: checked, then launched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.testing import live_service

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
COLLECTIONS = ["logins", "purchases"]

DEFS = """\
type: keen_pipeline.KeenExtractionComponent
attributes:
  keen: {base_url: "{{ env.KEEN_BASE_URL }}", project_id: "{{ env.KEEN_PROJECT_ID }}", read_key_variable: KEEN_READ_KEY}
  collections:
    - {name: logins, start_date: "2026-01-01"}
    - {name: purchases, start_date: "2026-01-01", encoding: csv.gz}
requirements:
  env: [KEEN_BASE_URL, KEEN_PROJECT_ID, KEEN_READ_KEY]
"""


def run(folder: Path, environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_lands_in_a_scaffolded_project(tmp_path: Path, project_root: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP", "http", "no_proxy"))}
    home = tmp_path / "home"
    home.mkdir()
    kept |= {"DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    run(tmp_path, kept, sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", "dist", str(project_root))
    [wheel] = (tmp_path / "dist").glob("keen_pipeline-*.whl")
    run(tmp_path, kept, sys.executable, "-m", "venv", "env")
    programs = tmp_path / "env" / "bin"
    run(tmp_path, kept, str(programs / "pip"), "install", "--quiet", str(wheel), "dagster-dg-cli", "create-dagster")
    run(tmp_path, kept, str(programs / "create-dagster"), "project", "ours", "--no-uv-sync")
    project = tmp_path / "ours"
    run(tmp_path, kept, str(programs / "pip"), "install", "--quiet", "--no-deps", "-e", "ours")
    dg = str(programs / "dg")
    with live_service() as service:
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key, write_key=service.write_key) as client:
            events = [{"keen": {"timestamp": f"{day}T10:00:00Z"}, "n": n} for n, day in enumerate(DAYS)]
            client.add_events(dict.fromkeys(COLLECTIONS, events))
        environment = {
            **kept,
            "PATH": f"{programs}:{kept['PATH']}",
            "KEEN_BASE_URL": service.base_url,
            "KEEN_PROJECT_ID": service.project_id,
            "KEEN_READ_KEY": service.read_key,
        }
        assert "keen_pipeline.KeenExtractionComponent" in run(project, environment, dg, "list", "components")
        run(project, environment, dg, "scaffold", "defs", "keen_pipeline.KeenExtractionComponent", "events")
        (project / "src" / "ours" / "defs" / "events" / "defs.yaml").write_text(DEFS)
        run(project, environment, dg, "check", "yaml")
        run(project, environment, dg, "check", "defs")
        listed = run(project, environment, dg, "list", "defs", "--json")
        assert all(f'"keen/{name}"' in listed for name in COLLECTIONS)
        between = f"{DAYS[0]}...{DAYS[-1]}"
        run(project, environment, dg, "launch", "--assets", "group:keen", "--partition-range", between)
    folder = project / "data" / "landing"
    landed = sorted(str(path.relative_to(folder)) for path in folder.glob("[!_]*/*"))
    assert landed == [f"logins/{day}.csv" for day in DAYS] + [f"purchases/{day}.csv.gz" for day in DAYS]
