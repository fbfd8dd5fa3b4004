"""What the page is made of: vendored files are what they claim to be, and nothing is fetched from elsewhere."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from collector.web import assets

VENDOR = assets.ROOT / "vendor"
THIRD_PARTY = json.loads((VENDOR / "third_party.json").read_text(encoding="utf-8"))
OURS = sorted(path for path in assets.ROOT.iterdir() if path.is_file())
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, never fetched


@pytest.mark.parametrize("name", THIRD_PARTY["uplot"]["files"])
def test_a_vendored_file_is_byte_for_byte_the_one_released(name: str) -> None:
    digest = hashlib.sha512((VENDOR / name).read_bytes()).digest()
    assert THIRD_PARTY["uplot"]["files"][name]["sha512"] == f"sha512-{base64.b64encode(digest).decode()}"


def test_every_vendored_file_is_accounted_for() -> None:
    accounted = {name for package in THIRD_PARTY.values() for name in package["files"]}
    assert accounted | {"third_party.json"} == {path.name for path in VENDOR.iterdir()}


def test_the_licence_of_the_charts_is_shipped_with_them() -> None:
    uplot = THIRD_PARTY["uplot"]
    assert (uplot["version"], uplot["licence"]) == ("1.6.32", "MIT")
    assert "Permission is hereby granted, free of charge" in (VENDOR / "LICENSE").read_text(encoding="utf-8")
    assert f"(v{uplot['version']})" in (VENDOR / "uPlot.iife.min.js").read_text(encoding="utf-8")[:100]


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_a_file_of_the_page_names_no_other_site(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace(NAMESPACE, "")
    assert re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text, re.IGNORECASE) == []


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_a_file_of_the_page_makes_no_markup_or_code_from_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text) == []
    if path.suffix == ".html":
        assert re.findall(r"<script>|<style>|\sstyle=|\son[a-z]+=", text) == []


def test_every_file_of_the_page_is_served_and_no_other() -> None:
    on_disk = {path.name for path in OURS} | {f"vendor/{name}" for name in ("uPlot.iife.min.js", "uPlot.min.css")}
    assert {*assets.FILES, "index.html", "login.html"} == on_disk


def test_every_file_the_page_names_is_served() -> None:
    for path in OURS:
        text = path.read_text(encoding="utf-8")
        named = re.findall(r'"/static/([^"]+)"', text) + re.findall(r'from "\./([^"]+)"', text)
        assert set(named) <= set(assets.FILES), path.name
