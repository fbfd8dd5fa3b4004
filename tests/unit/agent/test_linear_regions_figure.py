"""The figure of linear regions: well-formed, complete, and true to scale."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from torch import nn

from probe_agent.studies.linear_regions import LinearRegions, linear_regions
from probe_agent.studies.linear_regions_figure import FINE, SIDE, figure

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def found() -> LinearRegions:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)
    ).double()
    points = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return linear_regions(model, points, box=(-4, 4, -3, 3))


def drawn(found: LinearRegions, **texts: object) -> ET.Element:
    return ET.fromstring(figure(found, **{"title": "t", "labels": "abc", **texts}))  # noqa: S314 - our own


def test_every_territory_is_drawn_once_to_scale_and_fills_the_rectangle(found: LinearRegions) -> None:
    scale, area, count = SIDE / 8 * FINE, 0.0, 0
    for path in drawn(found).iter(f"{SVG}path"):
        if path.get("class") == "regions":
            for outline in re.findall(r"M([^z]*)z", path.attrib["d"]):
                numbers = np.array([int(n) for n in re.findall(r"-?\d+", outline)]).reshape(-1, 2)
                corners = numbers.cumsum(axis=0)  # the first is absolute, the others are steps
                after = np.roll(corners, -1, axis=0)
                area += abs((corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0]).sum()) / 2
                count += 1
                assert corners.min() >= 0
                assert (corners.max(axis=0) <= np.ceil([8 * scale, 6 * scale])).all()
    assert count == len(found.territories)
    assert area == pytest.approx(8 * 6 * scale**2, rel=1e-3)


def test_the_inputs_are_where_they_are_and_up_is_up(found: LinearRegions) -> None:
    root = drawn(found)
    [frame] = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "frame"]
    left, top = float(frame.attrib["x"]), float(frame.attrib["y"])
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")][:3]
    assert circles == [
        pytest.approx((left + SIDE / 8 * (u + 4), top + SIDE / 8 * (3 - v)), abs=0.2) for u, v in found.points
    ]


def test_edges_of_each_layer_and_the_decision_boundary_are_drawn_once(found: LinearRegions) -> None:
    paths = [path for path in drawn(found).iter(f"{SVG}path") if path.get("d", "").count("M") > 1]
    edges = [path.attrib["d"].count("M") for path in paths if path.get("class") == "edges"]
    lengths = np.linalg.norm(found.polygons.edges(), axis=2)
    twice = [int(((found.polygons.origin == layer) & (lengths > 0.01)).sum()) for layer in (0, 1)]
    assert edges == pytest.approx([count / 2 for count in twice], rel=0.05)
    [decision] = [path.attrib["d"].count("M") for path in paths if path.get("class") == "decision"]
    assert decision == len(found.decision)


def test_the_legend_names_classes_layers_and_counts(found: LinearRegions) -> None:
    texts = [
        text.text for text in drawn(found, classes=("cat", "dog", "fox"), labels=("p", "q", "r")).iter(f"{SVG}text")
    ]
    assert {"p", "q", "r", "0", "2", str(found.after[0]), "decision boundary"} <= set(texts)
    shares = [float(text.removesuffix(" %")) for text in texts if text and text.endswith(" %")]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert len(shares) == len(set(found.classes))
    assert {"cat", "dog", "fox"} & set(texts)


def test_what_a_name_contains_is_text_and_not_markup(found: LinearRegions) -> None:
    root = drawn(found, title="a < b & c", labels=("<g/>", "&", "'"))
    assert root.findtext(f"{SVG}title") == "a < b & c"
    assert {"<g/>", "&", "'"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_it_stands_alone_and_follows_the_scheme(found: LinearRegions) -> None:
    text = figure(found, title="t", labels="abc")
    assert "prefers-color-scheme: dark" in text
    assert text.count("http") == 1, "the name space and nothing to fetch"
    assert text == figure(found, title="t", labels="abc")
