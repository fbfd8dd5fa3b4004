"""Charts over time: how long a run had trained, and what time it was, of runs that were resumed and that went back."""

import time

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from collector.web import api
from tests.browser.test_compare import figures, second
from tests.browser.test_page import (  # noqa: F401 - fixtures and mark
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
    until,
)
from tests.collector_fixtures import STEPS, digits_run

SECONDS = 0.4
"""From one report of the seeded run to the next."""
LOSS = "#q-probe_loss"
LABEL = ".map-scale > span"


def starts(page: Chrome) -> list[float]:  # noqa: F811
    """Where the phases of the first machine begin, in percent of the map."""
    script = "return [...document.querySelector('.map-course').querySelectorAll('.map-span')].map((e) => parseFloat(e.style.left))"
    return list(page.execute_script(script))


def share(step: int) -> float:
    """Of its reports, which come evenly in time, how many were made up to a step, in percent."""
    before = max(i for i, each in enumerate(STEPS) if each <= step)
    part = (step - STEPS[before]) / (STEPS[before + 1] - STEPS[before])
    return 100 * (before + part) / (len(STEPS) - 1)


def test_charts_and_phases_are_drawn_over_time_and_the_figures_tell_both_step_and_time(
    page: Chrome,  # noqa: F811
    site: Site,  # noqa: F811
) -> None:
    open_run(page, site)
    click(page, ".tools-steps [data-value=time]")
    until(lambda: text(page, LABEL) == "time trained, seconds")
    assert page.current_url.endswith("?steps=time")
    until(lambda: starts(page) == pytest.approx([0, share(12), share(538)], abs=0.2))
    page.find_element(By.CSS_SELECTOR, f"{LOSS} .plot").send_keys(Keys.ARROW_LEFT)
    lasted = (len(STEPS) - 1) * SECONDS
    told = f"step {STEPS[-1]:,} · {lasted // 60:.0f} min {round(lasted % 60)} s"
    until(lambda: text(page, f"{LOSS} .card-caption") == told)
    click(page, ".tools-steps [data-value=clock]")
    until(lambda: text(page, LABEL).endswith(time.strftime("%Y")))
    page.refresh()
    until(lambda: count(page, ".card") > 0 and points(page, "probe_loss") > 0)
    assert text(page, ".tools-steps [aria-pressed=true]") == "clock"
    until(lambda: text(page, f"{LOSS} .card-caption").startswith(f"latest, step {STEPS[-1]:,} · "))
    page.back()
    until(lambda: text(page, LABEL) == "time trained, seconds")
    assert complaints(page) == []


def test_runs_beside_each_other_are_drawn_each_at_its_own_times(page: Chrome, site: Site) -> None:  # noqa: F811
    second(site, STEPS[:50])
    page.get(site.url(f"/compare?runs=0the5,{digits_run().id}&steps=time"))
    until(lambda: count(page, ".card") > 0 and count(page, ".map-row") == 2)
    page.execute_script("document.querySelector('.card').scrollIntoView()")
    until(lambda: points(page, "probe_loss") >= len(STEPS) and len(figures(page)) == 2)
    assert text(page, LABEL) == "time trained, seconds"
    page.find_element(By.CSS_SELECTOR, f"{LOSS} .plot").send_keys(Keys.ARROW_LEFT)
    until(lambda: text(page, f"{LOSS} .card-caption").startswith("after 1 min"))
    assert figures(page)[0].endswith(f"last at {STEPS[49]:,}")
    assert figures(page)[1].endswith(f"step {STEPS[-1]:,}")
    click(page, ".tools-steps [data-value=log]")
    until(lambda: text(page, LABEL) == "step")
    until(lambda: points(page, "probe_loss") == len(STEPS))
    steps = site.url(f"/compare?runs=0the5,{digits_run().id}&from=100&to=200")
    page.get(steps)
    until(lambda: count(page, ".map-row") == 2)
    click(page, ".tools-steps [data-value=time]")
    assert page.current_url.endswith("&steps=time"), "a zoom between two steps is none between two times"
    page.back()
    assert page.current_url == steps
    assert complaints(page) == []


def test_a_clock_leaves_out_what_lies_between_two_lives_and_keeps_what_a_step_back_took(
    page: Chrome,  # noqa: F811
    site: Site,  # noqa: F811
) -> None:
    page.get(site.url("/"))
    told = page.execute_async_script("""
        Promise.all([import('/static/clock.js'), import('/static/xaxis.js')]).then(([{ Clock }, { axisOf }]) => {
            const clock = new Clock('');
            clock.take({ clock: 'job', frame: 4, step: [0, 100, 200, 300], time: [50, 60, 70, 80], ran: [0, 10, 20, 30], life: [7, 7, 7, 7] });
            const before = [clock.trained.at(150), clock.trained.at(400)];
            clock.take({ clock: 'job', frame: 6, step: [200, 400], time: [9000, 9020], ran: [5, 25], life: [8, 8] });
            clock.take({ clock: 'job', frame: 7, step: [500], time: [8000], ran: [35], life: [8] });
            const { trained, passed } = clock;
            arguments[0]([before, [100, 200, 300, 400, 500].map(trained.at), [10, 35, 45].map(trained.back), [100, 200].map(passed.at),
                          passed.at(500) - passed.at(400), ['job', 'collector'].map((by) => {
                              clock.by = by;
                              return axisOf('time', clock).ticks(100, 500, 4).label;
                          })]);
        });
    """)
    before, trained, back, passed, set_back, labels = told
    assert before == [15, 40]  # between what is known, and on at the same pace
    assert trained == [10, 35, 45, 55, 65]  # a hundred steps were lost, and the seconds they took are not
    assert back == [100, 200, 300]
    assert passed == [10, 8950]
    assert 0 < set_back < 0.001  # a clock that was set back does not turn the axis round
    assert labels == ["time trained, seconds", "time trained, seconds, as reports reached the collector"]


def test_the_ticks_of_the_phase_map_move_with_its_axis_also_where_they_are_the_same(page: Chrome, site: Site) -> None:  # noqa: F811
    page.get(site.url("/"))
    told = page.execute_async_script("""
        Promise.all([import('/static/phasemap.js'), import('/static/xaxis.js')]).then(([{ PhaseMap }, { axisOf }]) => {
            const map = new PhaseMap(() => {});
            document.body.prepend(map.root);
            map.root.hidden = false;
            const places = (name) => {
                map.span([5000, 30000], null, axisOf(name));
                return [...map.axis.children].map((each) => [each.textContent, Math.round(parseFloat(each.style.left))]);
            };
            arguments[0]([places('log'), places('linear')]);
        });
    """)
    early, even = (dict(places) for places in told)
    assert [*early] == [*even]
    assert (early["10,000"], even["10,000"]) == (39, 20)


def test_ticks_of_days_are_midnights_also_where_a_night_has_an_hour_more(page: Chrome, site: Site) -> None:  # noqa: F811
    page.get(site.url("/"))
    page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Europe/Berlin"})
    try:
        told = page.execute_async_script("""
            import('/static/timeticks.js').then(({ dayTicks }) => {
                const [low, high] = [[2026, 9, 23, 12], [2026, 9, 27, 12]].map((at) => new Date(...at).getTime() / 1000);
                arguments[0]([5, 10].map((count) => dayTicks(low, high, count).ticks.map(({ x, text }) => [text, new Date(x * 1000).getHours()])));
            });
        """)
    finally:
        page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})
    days, halves = told
    assert days == [[f"{day} Oct", 0] for day in (24, 25, 26, 27)]
    assert [hour for _, hour in halves] == [12, 0] * 4 + [12]


def test_ticks_of_time_are_round_and_say_what_they_count(page: Chrome, site: Site) -> None:  # noqa: F811
    page.get(site.url("/"))
    told = page.execute_async_script("""
        import('/static/timeticks.js').then(({ elapsedTicks, dayTicks }) => {
            const say = ({ ticks, unit }) => [unit, ...ticks.map(({ text }) => text)];
            const ranges = [[0, 1, 5], [0, 100, 5], [0, 1200, 4], [3605, 3625, 4], [3500, 3501, 5], [0, 20000, 4], [0, 9e6, 4], [7, 7, 4]];
            const night = new Date(2026, 10, 21, 21, 0).getTime() / 1000;
            arguments[0]([...ranges.map((range) => say(elapsedTicks(...range))), say(dayTicks(night, night + 6 * 3600, 4))]);
        });
    """)
    assert told == [
        ["seconds", "0", "0.2", "0.4", "0.6", "0.8", "1"],
        ["seconds", "0", "30", "60", "90"],
        ["minutes", "0", "5", "10", "15", "20"],
        ["h:min:s", "1:00:05", "1:00:10", "1:00:15", "1:00:20", "1:00:25"],
        ["min:s", "58:20", "58:21"],
        ["hours", "0", "2", "4"],
        ["days", "0", "50", "100"],
        ["seconds", "7"],
        ["21 – 22 Nov 2026", "22:00", "22 Nov", "02:00"],
    ]


def test_what_a_chart_leaves_out_is_fetched_where_it_is_zoomed_in_on(
    page: Chrome,  # noqa: F811
    site: Site,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "MAX_POINTS_IN_ALL", 40)
    near = [step for step in STEPS if 90 <= step <= 210]  # a tenth beyond each end
    page.get(site.url(f"/runs/{digits_run().id}?from=100&to=200"))
    until(lambda: count(page, ".card") > 0 and points(page, "probe_loss") == len(near))
    assert text(page, f"{LOSS} .card-caption").startswith(f"latest, step {STEPS[-1]:,}")
    assert "left out" not in text(page, f"{LOSS} .card-note")
    click(page, ".tools > .button")
    until(lambda: points(page, "probe_loss") <= 40)
    assert "left out, extremes kept" in text(page, f"{LOSS} .card-note")
    assert complaints(page) == []
