"""Rule: an alert or a recording of Prometheus, and the file a group of them makes."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dashboards import config as c


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something a person should know now, and what they can do about it.

    ``hold`` is Prometheus's ``for``, ``keep`` its ``keep_firing_for``. ``description`` is read in a
    message and gives the evidence in words; ``meaning`` and ``remedy`` make its page.
    """

    name: str
    expr: str
    severity: Literal["critical", "warning", "info", "none"]
    summary: str
    description: str
    meaning: str
    remedy: str
    hold: str = ""
    keep: str = ""

    @property
    def anchor(self) -> str:
        """Where its page is."""
        return f"{c.RUNBOOKS}#{self.name.lower()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A question asked often, under a name of its own: ``level:metric:operation``."""

    name: str
    expr: str
    why: str


def rule_file(groups: Mapping[str, Sequence[Alert] | Sequence[Recording]], source: str) -> str:
    """The YAML of groups of rules. Strings are written as JSON, which is YAML that needs no library."""
    lines = [f"# Written by `python -m dashboards.build` from {source}; change that and build again.", "groups:"]
    for group, rules in groups.items():
        lines += [f"  - name: {group}", "    rules:"]
        for rule in rules:
            lines += _alert(rule) if isinstance(rule, Alert) else _recording(rule)
    return "\n".join(lines) + "\n"


def _alert(alert: Alert) -> Iterable[str]:
    yield f"      - alert: {alert.name}"
    yield from _expr(alert.expr)
    if alert.hold:
        yield f"        for: {alert.hold}"
    if alert.keep:
        yield f"        keep_firing_for: {alert.keep}"
    yield "        labels:"
    yield f"          severity: {alert.severity}"
    yield "        annotations:"
    for name, text in (("summary", alert.summary), ("description", alert.description), ("runbook_url", alert.anchor)):
        yield f"          {name}: {json.dumps(text, ensure_ascii=False)}"


def _recording(recording: Recording) -> Iterable[str]:
    yield f"      # {recording.why}"
    yield f"      - record: {recording.name}"
    yield from _expr(recording.expr)


def _expr(expr: str) -> Iterable[str]:
    yield "        expr: |-"
    yield textwrap.indent(textwrap.dedent(expr).strip(), " " * 10)
