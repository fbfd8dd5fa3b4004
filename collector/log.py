"""Log lines of the collector: one a happening, ``noun.verb key=value …`` on standard error."""

import json
import logging
import sys
import time
from datetime import UTC, datetime

logger = logging.getLogger("collector")


class KeyValueFormatter(logging.Formatter):
    """``2026-01-31T12:00:00Z info run.started name=digits``; values are quoted where they must be."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = getattr(record, "fields", {})
        text = " ".join(
            (when, record.levelname.lower(), record.getMessage(), *(f"{k}={_value(v)}" for k, v in fields.items()))
        )
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _value(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if not text.isprintable():  # a stranger's name must not speak to a person's terminal
        return json.dumps(text)
    return text if text and not any(c.isspace() or c in "\"='" for c in text) else json.dumps(text, ensure_ascii=False)


def event(name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Log one happening. *info* is the life of a run, *warning* is lost data, *error* needs a person."""
    logger.log(level, name, extra={"fields": fields})


def to_stderr(level: str) -> None:
    """Send the collector's log lines to standard error from this level up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


class Seldom:
    """Logs what may happen a thousand times a second once in ``seconds`` a reason; counting it is its own business."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def __call__(self, name: str, level: int, *, reason: str, **fields: object) -> None:
        """Log the event if none for this reason was logged for so long."""
        now = time.monotonic()
        if now - self._last.get(reason, -self._seconds) >= self._seconds:
            self._last[reason] = now
            event(name, level, reason=reason, **fields)
