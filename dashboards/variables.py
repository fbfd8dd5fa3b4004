"""Variables: what a reader of a board chooses, each from what the choices before it left."""

from dashboards.panels import DATASOURCE, Json


def datasource() -> Json:
    """Which Prometheus. A variable, because a name fixed here is a broken board everywhere else."""
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "skipUrlSync": False,
        "options": [],
        "current": {},
    }


def choice(name: str, label: str, question: str, *, several: bool = False, regex: str = "") -> Json:
    """One value, or several or all, of what Prometheus has at the time shown."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": question,
        "query": {"query": question, "refId": f"Variable-{name}", "qryType": 1},
        "regex": regex,
        "refresh": 2,  # when the time range changes, for runs come and go
        "sort": 1,
        "hide": 0,
        "multi": several,
        "includeAll": several,
        **({"allValue": ".+", "current": {"text": ["All"], "value": ["$__all"]}} if several else {"current": {}}),
        "skipUrlSync": False,
        "options": [],
    }
