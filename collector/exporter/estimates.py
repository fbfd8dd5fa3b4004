"""Estimates as series: a value never goes without its standard error and how it came out."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

from collector.exporter.catalogue import ESTIMATE_OUTCOME, Family
from collector.exporter.names import Layers, families, label_pairs
from collector.exporter.room import Share
from collector.exporter.still import Still
from collector.exporter.text import Page, number, prefix
from collector.live import SeriesKey
from probe_wire import Quantity

SERIES_PER_ESTIMATE = 4
"""Value, standard error, paired standard error, outcome: what an estimate takes of the room."""

_TAKEN = frozenset({"run", "rank", "quantity", "outcome", "le", "quantile"})

_families = lru_cache(maxsize=4096)(families)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The four lines of an estimate before their numbers: made once, used at every scrape."""

    metric: str
    value: str
    stderr: str
    paired: str
    outcome: str


class Names:
    """Which quantity a metric name stands for on one page: two quantities under one name would be one line twice."""

    def __init__(self, reserved: frozenset[str]) -> None:
        self._owners = dict.fromkeys(reserved, "")

    def claim(self, wanted: tuple[Family, ...], quantity: str) -> bool:
        """Whether all of these names are the quantity's, or free and now its own."""
        if any(self._owners.get(family.name, quantity) != quantity for family in wanted):
            return False
        self._owners.update((family.name, quantity) for family in wanted)
        return True


class RunEstimates:
    """The estimates of one run, from scrape to scrape: its layers' numbers and its ready-made prefixes."""

    def __init__(self, label: str) -> None:
        self.layers = Layers()
        self.refused: set[Hashable] = set()
        self.label = label
        self._learned = 0
        self._prefixes: dict[SeriesKey, Prefixes] = {}

    def learn(self, still: Still) -> None:
        """Number the layers that are new, in the order of the agent's report."""
        if len(still.estimates) == self._learned:
            return  # series are only ever added to a run
        self._learned = len(still.estimates)
        reported = sorted(still.estimates, key=lambda found: (found[1], found[0].rank))
        layers = (value for key, _, _ in reported for name, value in key.labels if name == "layer")
        if self.layers.learn(layers):
            self._prefixes.clear()  # the hundredth layer gives every number another digit

    def write(self, page: Page, still: Still, names: Names, share: Share) -> None:
        """The lines of every estimate there is room for."""
        wanted = {
            name: _families(still.quantities.get(name) or _undeclared(name))
            for name in {key.quantity for key, _, _ in still.estimates}
        }
        named = {name: names.claim(families, name) for name, families in sorted(wanted.items())}
        outcomes = page.lines(ESTIMATE_OUTCOME)
        for key, _, estimate in still.estimates:
            value, stderr, paired = wanted[key.quantity]
            if not named[key.quantity]:
                share.refuse(SERIES_PER_ESTIMATE, key, "name")
                continue
            if not share.take(SERIES_PER_ESTIMATE, key):
                continue
            prefixes = self._prefixes.get(key)
            if prefixes is None or prefixes.metric != value.name:
                prefixes = self._prefixes[key] = self._prefix(key, wanted[key.quantity])
            page.lines(value).append(prefixes.value + number(estimate.value))
            page.lines(stderr).append(prefixes.stderr + number(estimate.stderr))
            if not math.isnan(estimate.paired):
                page.lines(paired).append(prefixes.paired + number(estimate.paired))
                page.series += 1
            outcomes.append(prefixes.outcome + str(int(estimate.outcome)))
            page.series += 3

    def _prefix(self, key: SeriesKey, families: tuple[Family, Family, Family]) -> Prefixes:
        own = label_pairs(self.layers.named(key.labels), _TAKEN)
        who = [("run", self.label), ("rank", str(key.rank))]
        value, stderr, paired = (prefix(family.name, [*who, *own]) for family in families)
        return Prefixes(
            families[0].name,
            value,
            stderr,
            paired,
            prefix(ESTIMATE_OUTCOME.name, [*who, ("quantity", key.quantity), *own]),
        )


def _undeclared(name: str) -> Quantity:
    """A quantity whose declaration was not heard: shown under its bare name rather than not at all."""
    return Quantity(name, "1", "", name)
