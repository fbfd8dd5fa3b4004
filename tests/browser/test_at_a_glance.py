"""At a glance: the phases of a run on one map, and one run found among many."""

import math
import time

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from probe_wire import Hello
from tests.browser.test_page import (  # noqa: F401 - fixtures and mark
    RUN,
    Site,
    click,
    complaints,
    count,
    open_run,
    page,
    pytestmark,
    site,
    text,
    until,
)
from tests.collector_fixtures import STEPS, digits_run


def starts(page: Chrome) -> list[float]:  # noqa: F811
    """Where the phases of the map's first row begin, in per cent of its width."""
    lefts = "return [...document.querySelectorAll('.map-row:first-child .map-span')].map((span) => parseFloat(span.style.left))"
    return [float(left) for left in page.execute_script(lefts)]


def test_the_phase_map_shows_every_phase_at_its_steps_and_a_press_draws_it(page: Chrome, site: Site) -> None:  # noqa: F811
    open_run(page, site)
    rows = page.execute_script("return [...document.querySelectorAll('.map-row')].map((row) => row.innerText)")
    named = [row.split("\n")[0] for row in rows]
    assert named == ["critical period", "local complexity"]  # what asks for something first
    assert "after critical period" in rows[0]
    assert "detected" in rows[0]
    end = max(STEPS)
    assert starts(page) == pytest.approx(
        [0, *(100 * math.asinh(step) / math.asinh(end) for step in (12, 538))], abs=0.1
    )
    click(page, ".tools-steps button[aria-pressed=false]")  # steps evenly spaced
    until(lambda: starts(page) == pytest.approx([0, 100 * 12 / end, 100 * 538 / end], abs=0.1))
    click(page, ".map-name")
    until(lambda: text(page, ".map-name[aria-pressed=false]") == "critical period")
    assert complaints(page) == []


def test_the_phase_map_has_its_steps_before_any_chart_has_a_point(page: Chrome, site: Site) -> None:  # noqa: F811
    page.execute_cdp_cmd("Network.enable", {})
    page.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/points*"]})
    try:
        page.get(site.url(RUN))
        until(lambda: starts(page)[1:] != [])
        assert 0 < starts(page)[1] < starts(page)[2] < 100
    finally:
        page.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def test_of_many_runs_some_are_found_by_words_and_eight_at_the_most_are_chosen(page: Chrome, site: Site) -> None:  # noqa: F811
    for i in range(9):
        later = digits_run(f"{i:012x}", f"sweep-{i}", started_at=time.time())
        site.seeded.store.put_hello(Hello(later, 0, "e1", 1), time.time())
    site.seeded.store.commit()
    page.get(site.url("/"))
    until(lambda: count(page, ".runs tbody tr") == 10)
    search = page.find_element(By.CSS_SELECTOR, ".search")
    search.send_keys("digits ASCENT")
    until(lambda: count(page, ".runs tbody tr:not([hidden])") == 1)
    assert text(page, ".runs tbody tr:not([hidden]) .run-link") == "digits-cnn"
    search.send_keys(" nothing of the kind")
    until(lambda: page.find_element(By.CSS_SELECTOR, ".runs-unfound").is_displayed())
    page.get(site.url("/?find=sweep&runs=" + ",".join(f"{i:012x}" for i in range(7))))
    until(lambda: count(page, ".pick-box:checked") == 7)
    assert count(page, ".runs tbody tr:not([hidden])") == 9
    click(page, "tr:not([hidden]) .pick-box:not(:checked)")
    until(lambda: "8 runs chosen, which is the most" in text(page, ".picked"))
    assert count(page, ".pick-box:disabled") == 2
    click(page, ".picked button")
    until(lambda: count(page, ".pick-box:checked, .pick-box:disabled") == 0)
    assert page.current_url.endswith("/?find=sweep")
    assert complaints(page) == []
