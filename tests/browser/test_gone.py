"""What is no longer there: a run that was taken away, quantities that only a run taken out had, and points that cannot be read."""

import sqlite3
import time
from typing import Any

import pytest
from msgspec.structs import replace
from selenium.webdriver import Chrome

from collector.store.queries import Reader
from probe_wire import Column, Hello, Quantity, Schema, encode
from tests.browser.test_page import (  # noqa: F401 - fixtures and mark
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
    until,
)
from tests.collector_fixtures import digits_run

OWN = Schema(1, (Quantity("own_quantity", "1", "Mine.", "My own"),), (Column("own_quantity"),))


def test_a_run_that_is_taken_away_leaves_the_list_and_its_open_page_says_so(page: Chrome, site: Site) -> None:  # noqa: F811
    open_run(page, site)
    store, run = site.seeded.store, digits_run()
    store._begin()
    store._retention._drop(run.id, time.time())
    store._end()
    del site.seeded.live.runs[run.id]
    site.seeded.feed.tick(run.id, 8000, 1)
    until(lambda: text(page, "h1") == "No such run")
    assert "the store holds no run of that id" in text(page, "main")
    page.get(site.url("/"))
    until(lambda: "No run has reported yet" in text(page, ".welcome"))


def test_with_a_run_that_is_taken_out_go_the_charts_of_what_only_it_measured(page: Chrome, site: Site) -> None:  # noqa: F811
    store = site.seeded.store
    stream = store.put_hello(Hello(replace(digits_run("07her"), name="other"), 0, "e1", 1), time.time())
    store.put_schema(stream, OWN, encode(OWN))
    store.commit()
    page.get(site.url(f"/compare?runs=07her,{digits_run().id}"))
    until(lambda: count(page, "#q-own_quantity") == 1 and count(page, "#q-probe_loss") == 1)
    groups = count(page, ".group")
    click(page, ".roster-leave")
    until(lambda: count(page, "#q-own_quantity") == 0)
    assert count(page, "#q-probe_loss") == 1
    assert count(page, ".group") == count(page, ".jumps .button") <= groups
    assert complaints(page) == []


def test_a_chart_whose_points_cannot_be_read_says_why_and_has_them_later(
    page: Chrome,  # noqa: F811
    site: Site,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(Reader, "points", fail)
        page.get(site.url(RUN))
        until(lambda: "The store could not be read: disk I/O error" in text(page, "#q-probe_loss .plot-empty"))
    site.seeded.train((8000,))
    until(lambda: points(page, "probe_loss") > 0)
    assert page.execute_script("return document.querySelector('#q-probe_loss .plot-empty').hidden")


def test_a_fold_that_is_open_stays_open_when_there_is_news(page: Chrome, site: Site) -> None:  # noqa: F811
    page.get(site.url("/"))
    told = page.execute_async_script("""
        import('/static/dom.js').then(({ el, renew }) => {
            const node = document.body.appendChild(el('div'));
            const fold = (kind, text) => el('details', { class: kind }, el('summary', {}, text));
            renew(node, 1, () => [fold('a', 'one'), fold('b', 'two')]);
            node.querySelector('.b').open = true;
            node.querySelector('.b summary').focus();
            renew(node, 2, () => [fold('a', 'one'), fold('c', 'new'), fold('b', 'three')]);
            arguments[0]([...node.children].map((each) => each.open).concat(document.activeElement.textContent));
        });
    """)
    assert told == [False, False, True, "three"]
