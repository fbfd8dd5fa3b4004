"""Writes the boards, the rules and their reference pages: `python -m dashboards.build`, and with `--check` only compares."""

import argparse
import json
from pathlib import Path

from collector.phases import MACHINES
from dashboards.alerts import ALERTS, RECORDINGS
from dashboards.pages import alerts_page, metrics_page
from dashboards.phases_page import phases_page
from dashboards.rule import rule_file
from dashboards.run import board
from probe_agent.probes import PROBES

ROOT = Path(__file__).resolve().parent.parent


def outputs() -> dict[str, str]:
    """Every file that is built, by its path in the repository."""
    quantities = {probe.name: probe.quantities for probe in PROBES}
    machines = {machine.name: {phase.name: phase.meaning for phase in machine.phases} for machine in MACHINES}
    return {
        "dashboards/out/run.json": json.dumps(board(quantities, machines), indent=2, ensure_ascii=False) + "\n",
        "dashboards/rules/alerts.yml": rule_file(ALERTS, "dashboards/run_alerts.py, collector_alerts.py and config.py"),
        "dashboards/rules/recording.yml": rule_file(RECORDINGS, "dashboards/alerts.py and config.py"),
        "docs/reference/alerts.md": alerts_page(ALERTS),
        "docs/reference/metrics.md": metrics_page([quantity for of in quantities.values() for quantity in of]),
        "docs/reference/phases.md": phases_page(MACHINES),
    }


def stale(root: Path = ROOT) -> list[str]:
    """The files that are not what would be built now."""

    def differs(path: str, text: str) -> bool:
        file = root / path
        return not file.exists() or file.read_text(encoding="utf-8") != text

    return [path for path, text in outputs().items() if differs(path, text)]


def main() -> None:
    """Build, or with ``--check`` fail where a committed file is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a committed file is stale")
    old = stale()
    if parser.parse_args().check:
        if old:
            raise SystemExit(f"Stale: {', '.join(old)}. Run `python -m dashboards.build` and commit what it writes.")
        return
    for path in old:
        file = ROOT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(outputs()[path], encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
