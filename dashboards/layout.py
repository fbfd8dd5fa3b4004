"""Layout: panels in reading order onto Grafana's grid, with a number each."""

from collections.abc import Iterator, Sequence
from itertools import count

from dashboards.panels import COLUMNS, Json


def sized(width: int, height: int, panel: Json, *, repeat: str = "", per_row: int = 1) -> Json:
    """A panel that knows its size; ``repeat`` draws it once for each value of a variable."""
    grown: Json = {**panel, "gridPos": {"w": width, "h": height}}
    if repeat:
        grown |= {"repeat": repeat, "repeatDirection": "h", "maxPerRow": per_row}
    return grown


def place(panels: Sequence[Json]) -> list[Json]:
    """The panels from left to right and from top to bottom, also inside collapsed rows."""
    return _flow(panels, count(1), 0)[0]


def _flow(panels: Sequence[Json], numbers: Iterator[int], top: int) -> tuple[list[Json], int]:
    placed: list[Json] = []
    x, y, line = 0, top, 0  # line: the height of the line being filled
    for panel in panels:
        size = {"w": COLUMNS, "h": 1} if panel["type"] == "row" else panel["gridPos"]
        if x + size["w"] > COLUMNS:
            x, y, line = 0, y + line, 0
        put = {**panel, "id": next(numbers), "gridPos": {"x": x, "y": y, **size}}
        x, line = x + size["w"], max(line, size["h"])
        if panel["type"] == "row":
            put["panels"], _ = _flow(panel["panels"], numbers, y + 1)
        placed.append(put)
    return placed, y + line
