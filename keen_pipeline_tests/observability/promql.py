"""The queries of the dashboard and of the alerts, and the metrics they name, by a real parser of PromQL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import yaml

from keen_pipeline.observability import ALERTS, DASHBOARD

# Prometheus' own series of firing alerts.
OF_PROMETHEUS = {"ALERTS"}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel, those inside collapsed rows too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def dashboard_queries() -> dict[str, str]:
    """By where it stands each query of the dashboard, with Grafana's variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"] for panel in panels(dashboard) for target in panel.get("targets", [])
    }
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            [selector] = re.findall(r"^label_values\((.+), \w+\)$", variable["query"]["query"])
            found[f"variable {variable['name']}"] = selector
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            found[f"annotation {annotation['name']}"] = annotation["expr"]
    filled = {where: expr.replace("$__rate_interval", "5m").replace("$window", "1h") for where, expr in found.items()}
    return {where: re.sub(r"\$(job|service|collection)", "x", expr) for where, expr in filled.items()}


def alert_rules() -> list[dict[str, Any]]:
    """The rules of the package's file."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def metrics_in(query: str) -> set[str]:
    """The names that a query selects. Raises ValueError where it isn't PromQL."""
    found: set[str] = set()
    waiting: list[Any] = [promql_parser.parse(query)]
    while waiting:
        expression = waiting.pop()
        if isinstance(expression, promql_parser.VectorSelector):
            assert expression.name is not None, f"{expression} names no metric"
            found.add(expression.name)
        waiting += [getattr(expression, part) for part in ("expr", "lhs", "rhs", "vector_selector") if hasattr(expression, part)]
        waiting += getattr(expression, "args", [])
    return found - OF_PROMETHEUS
