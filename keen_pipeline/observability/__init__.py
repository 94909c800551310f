"""Prometheus metrics of the pipeline, a Grafana dashboard and alerting rules.

The pipeline is runs and sensor ticks of seconds on any host: none of them lives long enough to be scraped. What they did stands in
the ledger, so one exporter reads it there, for all of them.
"""

from pathlib import Path

DASHBOARD, ALERTS = (Path(__file__).parent / name for name in ("dashboard.json", "alerts.yaml"))
