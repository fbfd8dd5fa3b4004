"""The page in a real browser, over a real server and a seeded store, seen through its own DOM and console."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from msgspec.structs import replace

from collector.live import Live
from collector.phases import Span
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.web import Feed, create_app
from tests.browser.chromium import INSTALLED
from tests.collector_fixtures import LAYERS, STEPS, Seeded, began, complexity_turn, digits_run, seed, transition

selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver import ActionChains, Chrome  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.skipif(not INSTALLED, reason="needs chromium and chromedriver on PATH")

RUN = f"/runs/{digits_run().id}"
EARLY = tuple(step for step in STEPS if step <= 400)
PAINTED = """
    const canvas = document.querySelector(arguments[0] + ' .uplot canvas');
    const wanted = arguments[1];
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let found = 0;
    for (let i = 0; i < pixels.length; i += 4)
        if (wanted.every((part, c) => Math.abs(pixels[i + c] - part) <= 3) && pixels[i + 3] > 250) found++;
    return found;
"""


@dataclass
class Site:
    """A collector's page on loopback. ``stop`` and ``start`` play the collector that goes away."""

    seeded: Seeded
    port: int = 0
    server: uvicorn.Server | None = None
    thread: threading.Thread | None = None

    def start(self) -> None:
        feed = self.seeded.feed = Feed(seconds_between=0.1)
        app = create_app(self.seeded.reader, self.seeded.live, feed, lambda: b"", lambda: True)
        config = uvicorn.Config(app, host="127.0.0.1", port=self.port, log_level="error", timeout_graceful_shutdown=2)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        until(lambda: self.server is not None and self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        assert self.server is not None
        assert self.thread is not None
        self.seeded.feed.close()
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def until(true: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait for something to become true, and say what did not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for something that did not come")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(seed(tmp_path / "store.db", now=time.time()))
    found.start()
    yield found
    found.stop()
    found.seeded.store.close()


@pytest.fixture
def young(tmp_path: Path) -> Iterator[Site]:
    """A run that is still at step 400 and has passed no transition."""
    found = Site(seed(tmp_path / "store.db", steps=EARLY, now=time.time(), turns=False))
    found.start()
    yield found
    found.stop()
    found.seeded.store.close()


@pytest.fixture
def page(browser: Chrome) -> Iterator[Chrome]:
    """A tab of its own; what the pages in it leave behind goes with it."""
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    yield browser
    browser.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
    for kept in ("Cookies", "Cache"):
        browser.execute_cdp_cmd(f"Network.clearBrowser{kept}", {})
    browser.close()
    browser.switch_to.window(first)
    browser.get_log("browser")


def complaints(page: Chrome) -> list[str]:
    """What the console holds against the page: errors, and reports of its own content policy."""
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]


def text(page: Chrome, css: str) -> str:
    return str(page.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", css))


def count(page: Chrome, css: str) -> int:
    return int(page.execute_script("return document.querySelectorAll(arguments[0]).length", css))


def points(page: Chrome, quantity: str) -> int:
    return int(
        page.execute_script("return document.querySelector(arguments[0]).dataset.points ?? 0", f"#q-{quantity}") or 0
    )


def click(page: Chrome, css: str) -> None:
    page.execute_script("document.querySelector(arguments[0]).click()", css)


def open_run(page: Chrome, site: Site) -> None:
    page.get(site.url(RUN))
    until(lambda: count(page, ".card") > 0)
    page.execute_script("document.querySelector('.card').scrollIntoView()")  # charts are drawn when they are seen
    until(lambda: points(page, "probe_loss") > 0)
    until(lambda: text(page, "#link") == "live")


def tone(page: Chrome, name: str) -> list[int]:
    """A colour of the style sheet as red, green and blue."""
    value = page.execute_script(
        "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])", name
    )
    return [int(value.strip()[i : i + 2], 16) for i in (1, 3, 5)]


def test_the_list_names_the_run_and_its_phases_and_leads_to_its_page(page: Chrome, site: Site) -> None:
    page.get(site.url("/"))
    until(lambda: count(page, ".runs tbody tr") == 1)
    assert text(page, ".run-link") == "digits-cnn"
    assert {"local complexity: ascent", "after critical period"} == set(
        page.execute_script("return [...document.querySelectorAll('.runs .chip')].map((chip) => chip.textContent)")
    )
    click(page, ".run-link")
    until(lambda: text(page, "h1") == "digits-cnn")
    assert complaints(page) == []


def test_the_record_is_asked_for_when_it_is_opened_and_comes_when_it_is_known(page: Chrome, site: Site) -> None:
    site.seeded.finish()
    page.get(site.url("/"))
    until(lambda: count(page, ".runs tbody tr") == 1)
    assert text(page, ".record div") == ""
    click(page, ".record summary")
    until(lambda: "Of 1 finished run hindsight can judge" in text(page, ".record"))
    assert complaints(page) == []


def test_an_empty_collector_says_how_to_attach_to_it(page: Chrome, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    site = Site(Seeded(store, Reader(store.path), Live(), Feed(), digits_run(), None, 0.0))  # type: ignore[arg-type]
    site.start()
    page.get(site.url("/"))
    until(lambda: "attach(model" in text(page, ".welcome code"))
    assert 'collector="tcp://127.0.0.1:5757"' in text(page, ".welcome code")
    assert complaints(page) == []
    site.stop()
    store.close()


def test_the_page_draws_every_quantity_with_title_unit_and_help(page: Chrome, site: Site) -> None:
    open_run(page, site)
    assert count(page, ".card") == 8
    assert text(page, "#q-fisher_trace h3") == "Fisher trace"
    assert text(page, "#q-probe_loss .card-unit") == "nats"
    assert "Achille" in text(page, "#q-fisher_trace .card-help")
    assert text(page, "#q-probe_loss .card-settings") == "mode evaluation · samples 512"
    assert points(page, "probe_loss") == len(STEPS)
    assert "±" in text(page, "#q-probe_loss .card-value")
    assert "±1.96 stderr" in text(page, "#q-probe_loss .legend")
    line = tone(page, "--line-0")
    assert page.execute_script(PAINTED, "#q-probe_loss", line) > 100
    assert complaints(page) == []


def test_charts_stand_in_groups_by_probe_and_a_button_leads_to_each(page: Chrome, site: Site) -> None:
    open_run(page, site)
    names = page.execute_script("return [...document.querySelectorAll('.group > h3')].map((h) => h.textContent)")
    buttons = page.find_elements(By.CSS_SELECTOR, ".jumps button")
    assert len(names) > 1
    assert [button.text for button in buttons] == names
    page.execute_script("scrollTo(0, 0)")
    buttons[-1].click()
    assert page.execute_script("return document.activeElement.textContent") == names[-1]
    until(lambda: page.execute_script("return document.activeElement.getBoundingClientRect().top < innerHeight"))
    assert complaints(page) == []


def test_what_cannot_be_drawn_is_said(page: Chrome, site: Site) -> None:
    open_run(page, site)
    page.execute_script("document.querySelector('#q-weight_distance').scrollIntoView()")
    until(lambda: points(page, "weight_distance") > 0)
    assert text(page, "#q-weight_distance .card-note") == "1 point at or below zero not shown on a log axis"
    page.execute_script("document.querySelector('#q-hessian_lambda_max').scrollIntoView()")
    until(lambda: "points not ok" in text(page, "#q-hessian_lambda_max .card-note"))
    assert page.execute_script(PAINTED, "#q-hessian_lambda_max", tone(page, "--warn")) > 20
    page.execute_script("document.querySelector('#q-fisher_trace_empirical').scrollIntoView()")
    until(lambda: "no uncertainty given" in text(page, "#q-fisher_trace_empirical .legend"))


def test_phases_are_painted_on_every_chart(page: Chrome, site: Site) -> None:
    open_run(page, site)
    rules = {tuple(tone(page, f"--phase-{i}")) for i in range(1, 6)}
    for name in ("probe_loss", "probe_accuracy", "fisher_trace"):
        until(lambda name=name: points(page, name) > 0)
        painted = [ink for ink in rules if page.execute_script(PAINTED, f"#q-{name}", list(ink)) > 50]
        assert len(painted) == 3, name  # a rule of its own colour for each transition
    click(page, ".track-switches button[aria-pressed=true]")  # the critical period's two are hidden
    until(lambda: sum(page.execute_script(PAINTED, "#q-probe_loss", list(ink)) > 50 for ink in rules) == 1)


def test_a_change_of_what_is_trained_is_marked_on_every_chart(page: Chrome, site: Site) -> None:
    open_run(page, site)
    until(lambda: page.execute_script("return document.querySelector('.board').dataset.marks") == "1")
    until(lambda: page.execute_script(PAINTED, "#q-probe_loss", tone(page, "--mark")) > 20)
    page.execute_script("document.querySelector('#q-hessian_lambda_max').scrollIntoView()")
    until(lambda: points(page, "hessian_lambda_max") > 0)
    until(lambda: page.execute_script(PAINTED, "#q-hessian_lambda_max", tone(page, "--mark")) > 20)
    assert complaints(page) == []


def test_the_timeline_tells_when_why_and_how_to_undo(page: Chrome, site: Site) -> None:
    open_run(page, site)
    assert count(page, ".turn") == 3
    turn = text(page, ".turn")
    for fact in (
        "Critical period",
        "critical period→after critical period",
        "538",
        "451–614",
        "1,304",
        ">\u00a099.9\u00a0%",
        "safe to remove",
    ):
        assert fact in turn
    figures = text(page, ".turn .figures")
    for fact in (
        "66.84 ± 0.34",
        "8 probes, steps 451–614",
        "enough at 5.3",
        "reflected gauss e process",
        "1.8\u00a0% from the estimator",
    ):
        assert fact in figures
    assert "Put the augmentation back" in text(page, ".turn-undo")
    summary = text(page, ".summary")
    assert "After critical period" in summary
    assert "since step 538, detected at 1,304 (confidence >\u00a099.9\u00a0%)" in summary


def test_one_item_tells_a_claim_from_the_first_suspicion_to_its_withdrawal(page: Chrome, young: Site) -> None:
    open_run(page, young)
    told = transition(ordinal=2, known_step=300, happened_step=200, happened_between=(150, 250), act=False)
    young.seeded.turn(began())
    young.seeded.turn(replace(told, state="suspected"))
    until(lambda: count(page, ".turn-suspected") == 1)
    turn = text(page, ".turn-suspected")
    assert "perhaps at200" in turn
    assert "safe to remove" not in turn
    assert count(page, ".turn-suspected .chip.is-tentative") == 1
    assert "After critical period is suspected since step 300" in text(page, ".summary")
    click(page, ".turn-evidence summary")
    young.seeded.turn(replace(told, known_step=340))
    until(lambda: text(page, ".turn .turn-state") == "detected")
    assert count(page, ".turn") == 2  # the item is the same one, and still open
    assert count(page, ".turn-evidence[open]") == 1
    assert text(page, ".course") == "suspected 300detected 340"
    assert text(page, ".turn-advice.is-early").startswith("Once confirmed: Critical period ended")
    young.seeded.turn(replace(told, state="confirmed", known_step=380, act=True))
    until(lambda: text(page, ".turn .turn-state") == "confirmed")
    assert text(page, ".turn .turn-advice").startswith("Critical period ended")
    young.seeded.turn(
        replace(told, state="retracted", known_step=400, happened_step=300, advice="Put it back.", undo="", act=True)
    )
    until(lambda: text(page, ".turn .turn-state") == "retracted")
    assert "Undo: Put it back." in text(page, ".turn-retracted")
    assert "Critical period" in text(page, ".summary strong")  # where the run is again
    until(lambda: "withdrawn" in text(page, "#announcer"))
    assert complaints(page) == []


def test_a_suspicion_that_lapses_is_struck_through_and_paints_nothing(page: Chrome, young: Site) -> None:
    open_run(page, young)
    told = transition(ordinal=1, from_phase="early", to_phase="critical_period", advice="", undo="", act=False)
    for state in ("suspected", "retracted"):
        young.seeded.turn(replace(told, state=state))
    until(lambda: count(page, ".turn-retracted") == 1)
    assert "no phase was entered" in text(page, ".turn-retracted")
    assert count(page, ".track-switches .button") == 0
    assert text(page, "#announcer") == ""


def test_machines_still_in_their_first_phase_share_one_quiet_line(page: Chrome, young: Site) -> None:
    with young.seeded.live.lock:
        live = young.seeded.live.runs[digits_run().id]
        live.spans = [Span("plateau", {}, "moving", 0), Span("critical_period", {}, "early", 0)]
    open_run(page, young)
    assert text(page, ".summary-waiting") == "Still in their first phase: plateau, critical period."
    assert count(page, ".summary-line") == 0
    assert count(page, ".track-switches .button") == 0


def test_the_noise_of_every_judged_series_is_told_in_percent_and_words(page: Chrome, site: Site) -> None:
    open_run(page, site)
    rows = page.execute_script("return [...document.querySelectorAll('.noise tbody tr')].map((row) => row.textContent)")
    assert len(rows) == 2  # two machines see one and the same noise
    assert "local complexity" in rows[0]
    assert "A random walk of such steps is not ruled out" in rows[0]
    assert "critical period, intervention removal" in rows[1]
    assert "White2.1\u00a0%1.8\u00a0%0.9\u00a0%" in rows[1]


def test_evidence_is_shown_on_the_charts_on_demand(page: Chrome, site: Site) -> None:
    open_run(page, site)
    until(lambda: points(page, "fisher_trace") > 0)
    ink = tone(page, "--evidence")
    assert page.execute_script(PAINTED, "#q-fisher_trace", ink) == 0
    click(page, ".turn .button")
    until(lambda: page.execute_script(PAINTED, "#q-fisher_trace", ink) > 50)
    click(page, ".turn .button")
    until(lambda: page.execute_script(PAINTED, "#q-fisher_trace", ink) == 0)


def test_layers_are_shown_as_lines_and_as_a_heatmap(page: Chrome, site: Site) -> None:
    open_run(page, site)
    click(page, "#q-fisher_trace [data-value=layers]")
    until(lambda: count(page, "#q-fisher_trace .legend-item") == len(LAYERS))
    assert text(page, "#q-fisher_trace .legend-item") == "conv1"
    click(page, "#q-fisher_trace [data-value=heatmap]")
    until(lambda: count(page, "#q-fisher_trace .key-ramp") == 1)
    assert page.execute_script(PAINTED, "#q-fisher_trace", [253, 231, 37]) > 0  # the top of the scale
    assert complaints(page) == []


def test_a_chart_is_read_with_the_arrow_keys_and_the_others_follow(page: Chrome, site: Site) -> None:
    open_run(page, site)
    until(lambda: points(page, "probe_accuracy") > 0)
    plot = page.find_element("css selector", "#q-probe_loss .plot")
    plot.send_keys(Keys.ARROW_LEFT)
    until(lambda: text(page, "#q-probe_loss .card-caption").startswith(f"step {STEPS[-1]:,}"))
    plot.send_keys(Keys.ARROW_LEFT)
    until(lambda: text(page, "#q-probe_loss .card-caption").startswith(f"step {STEPS[-2]:,}"))
    until(lambda: text(page, "#q-probe_accuracy .card-caption").startswith(f"step {STEPS[-2]:,}"))


def test_new_points_and_a_new_transition_reach_an_open_page(page: Chrome, young: Site) -> None:
    open_run(page, young)
    assert points(page, "probe_loss") == len(EARLY)
    assert count(page, ".turn") == 0
    page.execute_script("window.untouched = document.querySelector('#q-probe_loss canvas')")
    young.seeded.train(tuple(step for step in STEPS if 400 < step <= 1310))
    until(lambda: points(page, "probe_loss") == sum(step <= 1310 for step in STEPS))
    assert page.execute_script("return window.untouched === document.querySelector('#q-probe_loss canvas')")
    young.seeded.turn(complexity_turn())
    young.seeded.turn(transition())
    until(lambda: count(page, ".turn") == 2)
    assert "Critical period" in text(page, ".turn")
    until(lambda: "After critical period since step 538" in text(page, "#announcer"))  # each is told by itself
    until(lambda: text(page, ".figure dd") == f"{max(step for step in STEPS if step <= 1310):,}")
    assert complaints(page) == []


def test_a_zoom_survives_new_points(page: Chrome, young: Site) -> None:
    open_run(page, young)
    chart = page.find_element("css selector", "#q-probe_loss .u-over")
    ActionChains(page).move_to_element_with_offset(chart, -60, 0).click_and_hold().move_by_offset(
        90, 0
    ).release().perform()
    until(lambda: not page.find_element("css selector", ".tools > .button").get_attribute("hidden"))
    young.seeded.train(tuple(step for step in STEPS if 400 < step <= 500))
    until(lambda: points(page, "probe_loss") == sum(step <= 500 for step in STEPS))
    assert not page.find_element("css selector", ".tools > .button").get_attribute("hidden")
    ActionChains(page).move_to_element(chart).double_click().perform()
    until(lambda: page.find_element("css selector", ".tools > .button").get_attribute("hidden"))


def test_a_collector_that_goes_away_is_told_and_found_again(page: Chrome, young: Site) -> None:
    open_run(page, young)
    young.stop()
    until(lambda: "does not answer" in text(page, "#banner"))
    assert text(page, "#link") == "no connection"
    young.seeded.train(tuple(step for step in STEPS if 400 < step <= 500))
    young.start()
    until(lambda: page.find_element("css selector", "#banner").get_attribute("hidden"), 30)
    until(lambda: points(page, "probe_loss") == sum(step <= 500 for step in STEPS))


def test_a_name_that_looks_like_markup_stays_a_name(page: Chrome, site: Site) -> None:
    name = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    site.seeded.store._db.execute("UPDATE runs SET name = ?", (name,))
    page.get(site.url("/"))
    until(lambda: text(page, ".run-link") == name)
    page.get(site.url(RUN))
    until(lambda: text(page, "h1") == name)
    assert count(page, "main img, main script") == 0
    assert complaints(page) == []


def test_a_run_that_is_not_there_is_a_sentence(page: Chrome, site: Site) -> None:
    page.get(site.url("/runs/nobody"))
    until(lambda: "the store holds no run of that id" in text(page, "main"))


def test_nothing_is_wider_than_the_window(page: Chrome, site: Site) -> None:
    for path, part in ((RUN, ".card"), ("/", ".runs tbody tr"), (f"/compare?runs={digits_run().id},nobody", ".card")):
        page.get(site.url(path))
        until(lambda part=part: count(page, part) > 0)
        for width in (380, 760, 1100, 1800):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            assert page.execute_script("return document.documentElement.scrollWidth") <= width, (path, width)


def test_numbers_read_as_a_person_would_write_them(page: Chrome, site: Site) -> None:
    page.get(site.url("/"))
    said = page.execute_async_script("""
        import('/static/format.js').then((f) => arguments[0]([
            [0, 1e-9, 0.00123456, 12.3456, 999.96, -5000, null].map((x) => f.number(x)),
            [[3.14159, 0.0213], [1e-7, 2e-8], [123456, 1200], [-0.5, 0.033], [5, null], [null, 1]].map((x) => f.withError(...x)),
            [0, 1e-5, 3e-4, 0.25, 1e5, 12345].map((x) => f.tick(x)),
            [0.5, 0.9991, 0.999999].map((x) => f.confidence(x).replace('\u00a0', ' ').replace('\u00a0', ' ')),
            f.distinct(['transformer.h.0.mlp', 'transformer.h.11.mlp']), f.distinct(['conv.1']), f.distinct([]),
        ]))
    """)
    assert said == [
        ["0", "1 × 10⁻⁹", "0.001235", "12.35", "1,000", "−5,000", "—"],
        ["3.142 ± 0.021", "(1.00 ± 0.20) × 10⁻⁷", "123,456 ± 1,200", "−0.500 ± 0.033", "5", "—"],
        ["0", "10⁻⁵", "3·10⁻⁴", "0.25", "10⁵", "12,345"],
        ["50.0 %", "> 99.9 %", "> 99.9 %"],
        ["0", "11"],
        ["conv.1"],
        [],
    ]


def test_a_run_resumed_from_a_checkpoint_draws_the_new_past_and_says_so(page: Chrome, young: Site) -> None:
    open_run(page, young)
    young.seeded.train((100, 105, 410))
    until(lambda: "from before training went back to an earlier step" in text(page, "#q-probe_loss .card-note"))
    assert points(page, "probe_loss") == sum(step < 100 for step in EARLY) + 3


def test_what_an_earlier_life_left_takes_nothing_away_of_the_one_that_goes_on(page: Chrome, site: Site) -> None:
    page.get(site.url("/"))
    drawn = page.execute_async_script("""
        import('/static/series.js').then(({ SeriesSet }) => {
            const set = new SeriesSet();
            const told = (frame, step, again) => set.take({ frame, again, series: [
                { rank: 0, labels: {}, settings: {}, folded: 0, step, value: step, stderr: step, n: step, outcome: step.map(() => 0) }] });
            told(4, [10, 20, 50, 60], false);
            told(7, [10, 20, 30, 40, 55, 50, 60], true);
            told(8, [70], false);
            const { step, abandoned } = set.list[0].current;
            arguments[0]([step, abandoned]);
        });
    """)
    assert drawn == [[10, 20, 30, 40, 50, 60, 70], 1]


def test_the_theme_button_goes_from_the_systems_to_light_to_dark(page: Chrome, site: Site) -> None:
    page.get(site.url("/"))
    seen = []
    for _ in range(3):
        click(page, "#theme")
        seen.append(page.execute_script("return document.documentElement.dataset.theme"))
    assert seen[:2] == ["light", "dark"]
    assert "Theme: system" in page.find_element("css selector", "#theme").get_attribute("aria-label")  # type: ignore[operator]
