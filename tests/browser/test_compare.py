"""Runs beside each other, and what one looks at in the page's address: chosen, drawn, hidden, reloaded and gone back from."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from probe_wire import Hello, encode
from tests.browser.test_page import (  # noqa: F401 - fixtures and mark
    PAINTED,
    RUN,
    Site,
    click,
    complaints,
    count,
    open_run,
    page,
    points,
    pytestmark,
    site,
    text,
    tone,
    until,
)
from tests.collector_fixtures import LAYERS, SCHEMA, STEPS, Seeded, began, digits_run, seed, transition

SPARSE = tuple(step + 1 for step in STEPS if step <= 900)[::2]
"""The steps at which the other run is measured: other ones, fewer, and not as far."""
LOSS = "#q-probe_loss"


def second(site: Site, steps: tuple[int, ...]) -> Seeded:  # noqa: F811
    """A second run of the store, slower and still live."""
    run = replace(digits_run("0the5", started_at=time.time()), labels={"dataset": "digits", "rate": "0.5"})
    seeded = site.seeded
    stream = seeded.store.put_hello(Hello(run, 0, "e1", 1), time.time())
    seeded.store.put_schema(stream, SCHEMA, encode(SCHEMA))
    seeded.store.commit()
    found = Seeded(seeded.store, seeded.reader, seeded.live, seeded.feed, run, stream, time.time(), pace=0.2)
    found.train(steps)
    return found


@pytest.fixture
def brief(tmp_path: Path) -> Iterator[Site]:
    """A run of a few steps."""
    found = Site(seed(tmp_path / "store.db", steps=STEPS[:8], now=time.time(), turns=False))
    found.start()
    yield found
    found.stop()
    found.seeded.store.close()


def inked(page: Chrome, place: int) -> int:  # noqa: F811
    """How many pixels of the loss have the colour of a place."""
    drawn = count(page, f"{LOSS} canvas") > 0
    return int(page.execute_script(PAINTED, LOSS, tone(page, f"--run-{place}"))) if drawn else 0


def figures(page: Chrome) -> list[str]:  # noqa: F811
    """What stands below the loss of each run."""
    script = "return [...document.querySelectorAll(arguments[0])].map((row) => row.textContent)"
    return list(page.execute_script(script, f"{LOSS} .beside tbody tr"))


def see_loss(page: Chrome) -> None:  # noqa: F811
    until(lambda: count(page, LOSS) == 1)
    page.execute_script("document.querySelector(arguments[0]).scrollIntoView()", LOSS)


def test_checked_runs_are_drawn_on_one_chart_hidden_and_shown_and_stay_live(
    page: Chrome,  # noqa: F811
    site: Site,  # noqa: F811
) -> None:
    other = second(site, SPARSE)
    page.get(site.url("/"))
    until(lambda: count(page, ".pick-box") == 2)
    assert "Check two runs" in text(page, ".picked")
    for box in page.find_elements(By.CSS_SELECTOR, ".pick-box"):
        box.send_keys(Keys.SPACE)
    until(lambda: text(page, ".picked .is-main") == "Compare 2 runs")
    page.find_element(By.CSS_SELECTOR, ".picked .is-main").send_keys(Keys.ENTER)
    see_loss(page)
    until(
        lambda: points(page, "probe_loss") == len({*STEPS, *SPARSE}) and inked(page, 0) > 100 and inked(page, 1) > 100
    )
    slower, faster = figures(page)
    assert ("rate 0.5" in slower, "±" in slower, f"step {SPARSE[-1]:,}" in slower) == (True, True, True)
    assert f"step {STEPS[-1]:,}" in faster
    other.train((1_500,))
    until(lambda: "step 1,500" in figures(page)[0])
    assert count(page, ".compare-page .map-row") == 2
    assert text(page, ".map-row:first-child .map-course") == ""  # of the other no phase is known
    other.turn(began())
    until(lambda: "earlycritical period" in text(page, ".map-row:first-child .map-course"))
    page.find_element(By.CSS_SELECTOR, f"{LOSS} .plot").send_keys(Keys.ARROW_LEFT)
    until(lambda: text(page, f"{LOSS} .card-caption") == f"at step {STEPS[-1]:,}")
    assert "last at 1,500" in figures(page)[0]
    page.find_element(By.CSS_SELECTOR, ".roster-name").send_keys(Keys.ENTER)
    until(lambda: len(figures(page)) == 1 and inked(page, 0) == 0)
    assert page.current_url.endswith(f"?runs=0the5,{digits_run().id}&hidden=0the5")
    page.refresh()
    see_loss(page)
    until(lambda: inked(page, 1) > 100)
    assert inked(page, 0) == 0
    click(page, ".roster-name[aria-pressed=true]")
    until(lambda: text(page, f"{LOSS} .plot-empty") == "Every run is hidden.")
    page.back()
    page.back()
    until(lambda: inked(page, 0) > 100)
    click(page, ".roster-leave")
    until(lambda: len(figures(page)) == 1)
    assert inked(page, 1) > 100  # and keeps its colour
    assert page.current_url.endswith(f"?runs=,{digits_run().id}")
    click(page, ".tools-steps [data-value=linear]")
    click(page, ".page-head .button")
    until(lambda: count(page, ".pick-box:checked") == 1)
    click(page, ".pick-box:not(:checked)")
    until(lambda: count(page, ".picked .is-main") == 1)
    click(page, ".picked .is-main")
    until(lambda: text(page, ".tools-steps [aria-pressed=true]") == "step")  # choosing more keeps the view
    assert page.current_url.endswith(f"/compare?runs=0the5,{digits_run().id}&steps=linear")
    assert [line for line in complaints(page) if "willReadFrequently" not in line] == []  # of our own looking at pixels


def test_a_layer_is_chosen_for_all_runs_and_what_differs_in_measuring_is_said(
    page: Chrome,  # noqa: F811
    brief: Site,
) -> None:
    second(brief, SPARSE[:3])
    ids = f"0the5,{digits_run().id},nobody"
    page.get(brief.url(f"/compare?runs={ids}&q.fisher_trace=layer:fc1,lin&phases=none#q-fisher_trace"))
    until(lambda: count(page, "#q-fisher_trace") and points(page, "fisher_trace") == len({*STEPS[:8], *SPARSE[:3]}))
    assert page.find_element(By.CSS_SELECTOR, "#q-fisher_trace select").get_property("value") == "layer:fc1"
    assert count(page, "#q-fisher_trace option") == 1 + len(LAYERS)
    assert text(page, "#q-fisher_trace [aria-pressed=true]") == "lin"
    assert "nobody: no such run" in text(page, ".roster")
    assert page.execute_script("return document.querySelector('#q-fisher_trace').getBoundingClientRect().top") < 400
    differs = "return import('/static/notes.js').then((n) => n.differencesOf([{ settings: { n: '8' } }, { settings: { n: '9' } }]))"
    assert page.execute_script(differs) == ["Measured differently: n 8, 9"]
    page.get(brief.url("/compare"))
    until(lambda: "No run is chosen" in text(page, ".welcome"))
    page.get(brief.url("/compare?runs=" + ",".join(f"r{i}" for i in range(10))))
    until(lambda: "2 more in the address are left out: 8 is the most" in text(page, ".page-head"))
    assert [line for line in complaints(page) if "Failed to load resource" not in line] == []


def test_what_one_looks_at_is_in_the_address_and_back_undoes_it(page: Chrome, site: Site) -> None:  # noqa: F811
    open_run(page, site)
    click(page, f"{LOSS} [data-value=false]")
    click(page, "#q-fisher_trace [data-value=heatmap]")
    click(page, ".tools-steps [data-value=linear]")
    click(page, ".map-name")
    chart = page.find_element(By.CSS_SELECTOR, f"{LOSS} .u-over")
    ActionChains(page).move_to_element_with_offset(chart, -60, 0).click_and_hold().move_by_offset(
        90, 0
    ).release().perform()
    until(lambda: "from=" in page.current_url)
    address = page.current_url
    assert f"{RUN}?q.probe_loss=lin&q.fisher_trace=heatmap&steps=linear&phases=local_complexity&from=" in address
    page.get("about:blank")
    page.get(address)
    until(lambda: count(page, ".card") > 0 and count(page, ".map-row") == 2)
    assert text(page, f"{LOSS} [aria-pressed=true]") == "lin"
    assert text(page, "#q-fisher_trace [aria-pressed=true]") == "heatmap"
    assert text(page, ".tools-steps [aria-pressed=true]") == "step"
    assert text(page, ".map-name[aria-pressed=true]") == "local complexity"
    assert count(page, ".tools > .button:not([hidden])") == 1
    click(page, ".tools > .button")
    click(page, ".tools-steps [data-value=log]")
    page.back()
    until(lambda: text(page, ".tools-steps [aria-pressed=true]") == "step")
    page.back()
    until(lambda: page.current_url == address and count(page, ".tools > .button:not([hidden])") == 1)
    assert transition().advice not in address
    assert complaints(page) == []
