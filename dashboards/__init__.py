"""Grafana boards and Prometheus rules, built from one config and committed: `python -m dashboards.build`."""
