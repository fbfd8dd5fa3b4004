"""The colours of runs beside each other: told from the ground and from one another, by every kind of eye."""

import re
from itertools import combinations

import numpy as np
import pytest

from collector.web.assets import ROOT

DEFICIENCIES = {  # of full strength, in linear light: Machado, Oliveira and Fernandes 2009, Table 1
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def linear(colour: str) -> np.ndarray:
    """Linear light of ``#rrggbb`` (IEC 61966-2-1)."""
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2, 1 to 21."""
    low, high = sorted(float(linear(colour) @ (0.2126, 0.7152, 0.0722)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(colour: str, deficiency: str) -> np.ndarray:
    """How a colour looks to an eye, in Oklab (Ottosson 2020)."""
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear(colour), 0, 1)
    return np.array(OKLAB) @ np.cbrt(np.array(CONES) @ seen)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_eight_runs_are_told_apart_by_every_eye_and_from_the_ground(theme: int) -> None:
    sheet = (ROOT / "style.css").read_text().split(':root[data-theme="dark"]')[theme]
    colours = re.findall(r"--run-\d: (#\w{6});", sheet)
    surface = re.findall(r"--surface: (#\w{6});", sheet)[0]
    assert len(set(colours)) == 8
    assert min(contrast(colour, surface) for colour in colours) >= 3  # WCAG 2.2, 1.4.11
    for eye in DEFICIENCIES:
        apart = [np.linalg.norm(oklab(a, eye) - oklab(b, eye)) for a, b in combinations(colours, 2)]
        assert min(apart) > 0.1, eye  # a just noticeable difference is about 0.02
