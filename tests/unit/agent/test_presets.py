"""The presets: nested, complete, and of one mind about each probe."""

from collections.abc import Callable

import pytest

from probe_agent.presets import full, light, standard
from probe_agent.probes import PROBES
from probe_agent.schedule import Watch


def names(preset: Callable[[], tuple[Watch, ...]]) -> list[str]:
    return [probe.name for watch in preset() for probe in watch.probes]


def test_each_preset_holds_all_of_the_smaller_ones() -> None:
    assert set(names(light)) < set(names(standard)) < set(names(full))


def test_the_full_preset_holds_every_probe_there_is() -> None:
    assert set(names(full)) == {probe.name for probe in PROBES}


@pytest.mark.parametrize("preset", [light, standard, full])
def test_no_preset_measures_anything_twice(preset: Callable[[], tuple[Watch, ...]]) -> None:
    assert len(names(preset)) == len(set(names(preset)))


def test_the_full_preset_measures_all_that_phases_are_judged_by_and_the_standard_one_all_but_the_dear_subspace() -> (
    None
):
    from collector.phases import MACHINES

    def measured(preset: Callable[[], tuple[Watch, ...]]) -> set[str]:
        return {q.name for watch in preset() for probe in watch.probes for q in probe.quantities}

    judged = {machine.quantity for machine in MACHINES if not machine.quantity.startswith("observed_")}
    assert judged <= measured(full)
    assert judged - measured(standard) == {"gradient_subspace_overlap"}
