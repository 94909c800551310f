"""The dashboard as Grafana reads one, and the alerts as people do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from keen_pipeline.observability import DASHBOARD
from keen_pipeline_tests.observability.promql import alert_rules, dashboard_queries, metrics_in, panels

DASHBOARD_JSON = json.loads(DASHBOARD.read_text())


def test_every_panel_asks_the_chosen_prometheus_and_says_what_it_shows() -> None:
    found = [panel for panel in panels(DASHBOARD_JSON) if panel["type"] != "row"]
    assert len(found) >= 20
    for panel in found:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for asks in (panel, *panel["targets"]):
            assert asks["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
    ids = [panel["id"] for panel in panels(DASHBOARD_JSON)]
    assert len(ids) == len(set(ids))


def test_panels_lie_side_by_side_on_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(DASHBOARD_JSON):
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells


def test_every_variable_of_the_dashboard_is_defined_and_used() -> None:
    defined = {variable["name"] for variable in DASHBOARD_JSON["templating"]["list"]}
    text = DASHBOARD.read_text()
    used = set(re.findall(r"\$\{?([a-z]+)\}?", text))
    assert defined == used == {"datasource", "job", "collection", "service", "window"}


def test_every_query_is_promql_of_the_chosen_ledger() -> None:
    for where, query in dashboard_queries().items():
        names = metrics_in(query)
        assert where.startswith("annotation") or names, where
        if not where.startswith(("variable job", "variable service", "annotation")):
            assert query.count('job="x"') == sum(query.count(f"{name}{{") for name in names), where


def test_every_alert_says_what_is_wrong_and_what_to_do_and_is_tested_with_promtool() -> None:
    tests = (Path(__file__).parent / "alerts_test.yaml").read_text()
    for rule in alert_rules():
        assert metrics_in(rule["expr"])
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert len(rule["annotations"]["description"]) > 100
        assert rule["alert"] in tests
    assert len(alert_rules()) == 7
    yaml.safe_load(tests)


def test_commands_and_settings_that_the_alerts_name_exist(project_root: Path) -> None:
    from keen_pipeline.cli import _COMMANDS

    told = " ".join(rule["annotations"]["description"] for rule in alert_rules()) + DASHBOARD.read_text()
    assert set(re.findall(r"`keen-pipeline ([a-z]+)", told)) <= set(_COMMANDS)
    settings = (project_root / "keen_pipeline" / "settings.py").read_text()
    assert [name for name in set(re.findall(r"KEEN_PIPELINE_[A-Z_]+", told)) if name not in settings] == []
