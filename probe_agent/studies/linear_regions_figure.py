"""A figure of linear regions: one SVG that stands alone and follows the reader's light or dark scheme."""

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from probe_agent.studies.convex_polygons import Floats
from probe_agent.studies.linear_regions import LinearRegions

SIDE = 600.0
"""The longer side of the plot in pixels."""

FINE = 10
"""Coordinates are whole tenths of a pixel: half the length of decimals."""

LEFT, TOP, RIGHT, BOTTOM = 58.0, 64.0, 232.0, 54.0
"""Margins of the plot: ticks, title, legend, ticks."""

HUES = ("#4f74f0", "#f0a030", "#26ab93", "#d8588f", "#8a63dd", "#79ad35", "#df6546", "#a854b8", "#34a0d6", "#c6a31c")
"""One a class, the same at every checkpoint."""

SHADES = (0.20, 0.28, 0.36, 0.44, 0.52)
"""Opacities that tell regions of one class apart."""

STYLE = """
:root { --paper: #ffffff; --ink: #1b1e27; --soft: #6a7182; --line: #2b3350 }
@media (prefers-color-scheme: dark) { :root { --paper: #12141a; --ink: #eef0f6; --soft: #9aa3b5; --line: #dfe5ff } }
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums }
.title { font-size: 17px; font-weight: 650; fill: var(--ink) }
.head { font-weight: 650; fill: var(--ink) }
.mark { font-size: 14px; font-weight: 700; fill: var(--ink); stroke: var(--paper); stroke-width: 4px; paint-order: stroke;
  stroke-linejoin: round }
.edges { fill: none; stroke: var(--line); stroke-linecap: round }
.halo, .decision { fill: none; stroke-linecap: round; stroke-linejoin: round }
.halo { stroke: var(--paper) } .decision { stroke: var(--ink) }
.frame { fill: none; stroke: var(--soft); stroke-width: 1 }
"""


def figure(found: LinearRegions, *, title: str, labels: Sequence[str], classes: Sequence[str] = ()) -> str:
    """Regions in the colour of their class, the edges of each layer, the decision boundary and the three inputs, as SVG.

    Edges are the fainter the deeper their layer.

    Args:
        found: the regions.
        title: its heading.
        labels: what to call each of the three inputs.
        classes: what to call the classes; by default their numbers.
    """
    left, right, bottom, top = found.box
    scale = SIDE / max(right - left, top - bottom)
    width, height = scale * (right - left), scale * (top - bottom)

    def pixels(where: Floats) -> NDArray[np.int64]:
        turned = np.stack([where[..., 0] - left, top - where[..., 1]], axis=-1)
        return np.rint(FINE * scale * turned).astype(np.int64)

    shares = np.bincount(found.classes, found.territories.areas()) / ((right - left) * (top - bottom))
    order = [int(c) for c in np.argsort(-shares, kind="stable") if shares[c] > 0]
    hues = {c: HUES[c % len(HUES)] for c in order}
    lines = [f"<g transform='translate({LEFT} {TOP}) scale({1 / FINE})'>"]
    lines += _areas(found, pixels(found.territories.corners), hues)
    lines += _edges(found, pixels(found.polygons.corners))
    decision = "".join(f"M{x} {y}L{z} {w}" for (x, y), (z, w) in pixels(found.decision).tolist())
    lines += [f"<path class='{kind}' stroke-width='{w * FINE}' d='{decision}'/>" for kind, w in _DECISION]
    lines.append("</g>")
    lines.append(f"<rect class='frame' x='{LEFT}' y='{TOP}' width='{width:.1f}' height='{height:.1f}'/>")
    lines += _axes(found, scale, height)
    lines += _inputs(found, pixels(found.points) / FINE, labels)
    lines += _legend(found, LEFT + width + 24, [(_name(c, classes), hues[c], shares[c]) for c in order])
    whole_width, whole_height = LEFT + width + RIGHT, TOP + max(height, 480) + BOTTOM
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {whole_width:.0f} {whole_height:.0f}' "
        f"width='{whole_width:.0f}' height='{whole_height:.0f}' role='img'>"
    )
    opening = [head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>"]
    opening.append("<rect width='100%' height='100%' fill='var(--paper)'/>")
    opening.append(f"<text class='title' x='{LEFT}' y='{TOP - 36}'>{escape(title)}</text>")
    opening.append(f"<text x='{LEFT}' y='{TOP - 15}'>{_count(len(found))} linear regions in this plane, exactly</text>")
    return "\n".join([*opening, *lines, "</svg>"]) + "\n"


_DECISION = (("halo", 5.5), ("decision", 2.4))


def _areas(found: LinearRegions, corners: NDArray[np.int64], hues: dict[int, str]) -> Iterable[str]:
    """A path for each class and shade."""
    shade = np.random.default_rng(0).permutation(len(found.classes)) % len(SHADES)
    for c, hue in hues.items():
        for level, opacity in enumerate(SHADES):
            own = np.flatnonzero((found.classes == c) & (shade == level))
            outline = "".join(_outline(corners[i, : found.territories.sides[i]].tolist()) for i in own)
            if outline:
                yield f"<path class='regions' fill='{hue}' fill-opacity='{opacity}' d='{outline}'/>"


def _outline(corners: list[list[int]]) -> str:
    (x, y), *others = corners
    path = [f"M{x} {y}l"]
    for u, v in others:
        path.append(f"{u - x} {v - y} ")
        x, y = u, v
    return "".join(path).rstrip() + "z"


def _edges(found: LinearRegions, corners: NDArray[np.int64]) -> Iterable[str]:
    """A path for each layer; of each edge, which two polygons have, one copy."""
    after = np.roll(corners, -1, axis=1)
    ahead = (corners < after)[..., 0] | ((corners[..., 0] == after[..., 0]) & (corners[..., 1] < after[..., 1]))
    for index in range(len(found.layers)):
        once = ahead & (found.polygons.origin == index)
        path = "".join(
            f"M{x} {y}l{z - x} {w - y}"
            for (x, y), (z, w) in zip(corners[once].tolist(), after[once].tolist(), strict=True)
        )
        width, opacity = _stroke(index, len(found.layers))
        yield f"<path class='edges' stroke-width='{width * FINE:.1f}' stroke-opacity='{opacity:.2f}' d='{path}'/>"


def _stroke(index: int, layers: int) -> tuple[float, float]:
    """Width and opacity of a layer's edges: the first bends widest."""
    depth = index / max(1, layers - 1)
    return 1.1 - 0.5 * depth, 0.55 - 0.15 * depth


def _axes(found: LinearRegions, scale: float, height: float) -> Iterable[str]:
    left, right, bottom, top = found.box
    step = _step(max(right - left, top - bottom) / 5)
    for u in np.arange(math.ceil(left / step), math.floor(right / step) + 1) * step:
        x = LEFT + scale * (u - left)
        yield f"<path class='frame' d='M{x:.1f} {TOP + height:.1f}v5'/>"
        yield f"<text x='{x:.1f}' y='{TOP + height + 19:.1f}' text-anchor='middle'>{_tick(u)}</text>"
    for v in np.arange(math.ceil(bottom / step), math.floor(top / step) + 1) * step:
        y = TOP + scale * (top - v)
        yield f"<path class='frame' d='M{LEFT} {y:.1f}h-5'/>"
        yield f"<text x='{LEFT - 9}' y='{y + 4:.1f}' text-anchor='end'>{_tick(v)}</text>"
    middle, low = LEFT + scale * (right - left) / 2, TOP + height + 40
    yield f"<text x='{middle:.1f}' y='{low:.1f}' text-anchor='middle'>distance in input space, both ways</text>"


def _inputs(found: LinearRegions, places: Floats, labels: Sequence[str]) -> Iterable[str]:
    left, right, bottom, top = found.box
    for (u, v), (x, y), label in zip(found.points, places, labels, strict=True):
        if left <= u <= right and bottom <= v <= top:
            at = f"cx='{LEFT + x:.1f}' cy='{TOP + y:.1f}'"
            yield f"<circle {at} r='6' fill='var(--ink)' stroke='var(--paper)' stroke-width='2.5'/>"
            anchor, side = ("end", -12) if u > (left + 3 * right) / 4 else ("start", 12)
            place = f"x='{LEFT + x + side:.1f}' y='{TOP + y + 5:.1f}' text-anchor='{anchor}'"
            yield f"<text class='mark' {place}>{escape(label)}</text>"


def _legend(found: LinearRegions, x: float, classes: list[tuple[str, str, float]]) -> Iterable[str]:
    y = TOP + 12
    yield f"<text class='head' x='{x}' y='{y}'>Class, share of the area</text>"
    for name, hue, share in classes[: len(HUES)]:
        y += 21
        yield f"<rect x='{x}' y='{y - 11}' width='22' height='13' rx='3' fill='{hue}' fill-opacity='0.55'/>"
        yield f"<text x='{x + 32}' y='{y}'>{escape(name)}</text>"
        yield f"<text x='{x + 184}' y='{y}' text-anchor='end'>{100 * share:.1f} %</text>"
    y += 36
    yield f"<text class='head' x='{x}' y='{y}'>Layer, regions after it</text>"
    for index, (layer, count) in enumerate(zip(found.layers, found.after, strict=True)):
        y += 21
        width, opacity = _stroke(index, len(found.layers))
        yield f"<path class='edges' stroke-width='{width}' stroke-opacity='{opacity:.2f}' d='M{x} {y - 4}h22'/>"
        yield f"<text x='{x + 32}' y='{y}'>{escape(layer)}</text>"
        yield f"<text x='{x + 184}' y='{y}' text-anchor='end'>{_count(count)}</text>"
    y += 36
    yield f"<path class='decision' stroke-width='2.4' d='M{x} {y - 4}h22'/>"
    yield f"<text x='{x + 32}' y='{y}'>decision boundary</text>"
    yield f"<circle cx='{x + 11}' cy='{y + 17}' r='5' fill='var(--ink)'/><text x='{x + 32}' y='{y + 21}'>input</text>"


def _name(c: int, classes: Sequence[str]) -> str:
    return classes[c] if c < len(classes) else str(c)


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _step(least: float) -> float:
    """The smallest of …, 1, 2, 5, 10, … that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * nice for nice in (1, 2, 5, 10) if power * nice >= least * 0.999)


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−") if abs(value) > 1e-9 else "0"
