"""What rules of an earlier version told of a run, and those it was judged again by do not find, is marked wherever it is shown."""

import json
from pathlib import Path

import msgspec

from collector.live import Live
from collector.phases import MACHINES
from collector.store.backtest import backtest
from collector.store.queries import Reader
from collector.web.api import Api
from tests.inlets import RUN
from tests.unit.collector.test_phases_kept import peak
from tests.unit.collector.test_retrials import Life


def test_what_earlier_rules_told_and_these_do_not_find_is_marked_and_no_phase_is_of_it(tmp_path: Path) -> None:
    before = Life(tmp_path)
    before.take(peak())
    before.end()
    assert {s.transition.machine for s in before.stored if s.transition.state == "detected"} >= {"critical_period"}
    assert not any(s.superseded for s in before.stored)
    blind = tuple(
        msgspec.structs.replace(each, turns=tuple(msgspec.structs.replace(t, min_effect=9.0) for t in each.turns))
        if each.name == "critical_period"
        else each
        for each in MACHINES
    )
    after = Life(tmp_path, blind)
    phases = [span.phase for span in after.live.runs[RUN.id].spans if span.machine == "critical_period"]
    after.end()
    assert phases == ["early"]
    assert "critical_period" not in {t.machine for t in after.live.runs[RUN.id].transitions}, (
        "nor is it the newest on /metrics"
    )
    for when in ("from memory", "from the store"):
        live = after.live if when == "from memory" else Live()
        shown = json.loads(Api(Reader(after.path), live, "", blind).run(RUN.id))["run"]["phases"]
        assert {each["phase"] for each in shown if each["machine"] == "critical_period"} <= {"early"}, when
    told = json.loads(Api(Reader(after.path), after.live, "").transitions(RUN.id))
    assert [each["superseded"] for each in told] == [s.superseded for s in after.stored]
    superseded = {s.transition.machine for s in after.stored if s.superseded}
    assert superseded == {"critical_period"}
    again = Life(tmp_path, blind)
    assert [span.phase for span in again.live.runs[RUN.id].spans if span.machine == "critical_period"] == ["early"]
    assert "critical_period" not in {t.machine for t in again.live.runs[RUN.id].transitions}
    again.end()
    assert {s.transition.machine for s in again.stored if s.superseded} == superseded, "after a restart as well"
    assert [one for one in backtest(Reader(again.path), blind) if one.machine == "critical_period"] == []
