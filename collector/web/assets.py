"""The files of the page: a fixed list, read once. No path of a URL is ever looked up on disk."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

FILES = (
    "address.js",
    "app.js",
    "axes.js",
    "board.js",
    "card.js",
    "charts.css",
    "choice.js",
    "clock.js",
    "compare.css",
    "compare.js",
    "compared.js",
    "dom.js",
    "early.js",
    "evidence.js",
    "favicon.svg",
    "format.js",
    "frame.js",
    "health.js",
    "heatmap.js",
    "legend.js",
    "link.js",
    "login.js",
    "marks.js",
    "media.css",
    "noise.js",
    "notes.js",
    "overlay.js",
    "pages.css",
    "palette.js",
    "phasemap.css",
    "phasemap.js",
    "phases.css",
    "phases.js",
    "plot.js",
    "readout.js",
    "record.js",
    "regions.js",
    "run.css",
    "run.js",
    "runs.js",
    "segments.js",
    "series.js",
    "shapes.js",
    "style.css",
    "tables.css",
    "theme.js",
    "timeline.js",
    "timeticks.js",
    "vendor/uPlot.iife.min.js",
    "vendor/uPlot.min.css",
    "xaxis.js",
)
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
ROOT = Path(__file__).with_name("static")


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent. ``etag`` lets a browser ask whether its copy is still the one."""

    body: bytes
    content_type: str
    etag: str


def load(name: str) -> Asset:
    """A file of the package's ``static`` folder."""
    path = ROOT / name
    body = path.read_bytes()
    return Asset(body, TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
