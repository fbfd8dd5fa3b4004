"""Receipt: whether training with the agent was, bit by bit, what it is without, and if not what differed first."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final

Verdict = Literal["identical", "differs", "not repeatable", "no testimony"]

KINDS = {
    "parameter": "parameters", "gradient": "gradients", "buffer": "buffers", "optimizer": "facts of the optimizer",
    "random": "random streams", "mode": "modes", "hooks": "modules' hooks", "inputs": "the model's inputs",
    "whether": "trained or frozen", "compilation,": "counts of compilations",
}  # fmt: skip
"""What the first word of a fact says it is of."""


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """The first fact that was not the same: at which optimizer step (the first is 1), of which monitor, and what."""

    step: int
    monitor: str
    fact: str


@final
@dataclass(frozen=True, slots=True)
class Testimony:
    """What the witnesses of one run wrote: by monitor, the facts of each step; and what was measured."""

    steps: Mapping[str, Sequence[Mapping[str, str]]]
    measured: Mapping[str, Mapping[str, float]]

    @classmethod
    def read(cls, folder: Path) -> "Testimony":
        """All files of a folder."""
        steps: dict[str, list[dict[str, str]]] = {}
        measured: dict[str, dict[str, float]] = {}
        for path in sorted(folder.glob("*.jsonl")):
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            steps[path.stem] = [line for line in lines if "measured" not in line]
            for line in lines:
                measured |= line.get("measured", {})
        return cls(steps, measured)

    @property
    def length(self) -> int:
        """Steps that every monitor has seen; 0 without one."""
        return min(map(len, self.steps.values()), default=0)

    @property
    def facts(self) -> dict[str, int]:
        """How many facts of each kind the last step had."""
        last = (fact for steps in self.steps.values() if steps for fact in steps[-1])
        return dict(Counter(KINDS.get(fact.split()[0], "switches") for fact in last))

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self.steps, sort_keys=True).encode()).hexdigest()


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    """The comparison, as it is printed and written.

    ``unseeded`` are random streams that the script does not seed: they begin somewhere else each time, and what is
    compared is at which steps they were drawn from.
    """

    verdict: Verdict
    steps: int
    compared: Mapping[str, int]
    unseeded: Sequence[str]
    difference: Difference | None
    measured: Mapping[str, Mapping[str, float]]
    digests: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def receipt(without: Testimony, again: Testimony, with_agent: Testimony) -> Receipt:
    """Compare a run with the agent to two without, the second of which tells whether the script repeats itself."""
    unseeded = [fact for fact in _unlike_at_first(without, again) if fact.startswith("random stream")]
    own, ours = (first_difference(without, other, unseeded) for other in (again, with_agent))
    verdict: Verdict = "identical"
    if not without.length or not with_agent.length:
        verdict = "no testimony"
    elif own is not None:
        verdict = "not repeatable"
    elif ours is not None:
        verdict = "differs"
    return Receipt(
        verdict=verdict,
        steps=min(without.length, with_agent.length),
        compared=without.facts,
        unseeded=unseeded,
        difference=own or ours,
        measured=with_agent.measured,
        digests={"without": without.digest, "again": again.digest, "with": with_agent.digest},
    )


def first_difference(one: Testimony, other: Testimony, unlike: Collection[str] = ()) -> Difference | None:
    """The earliest, over all monitors, of a fact that is not known to be ``unlike``; None where there is none."""
    for step in range(max(longest(one), longest(other))):
        for monitor in one.steps.keys() | other.steps.keys():
            here, there = (_at(testimony, monitor, step) for testimony in (one, other))
            for fact in {**here, **there}:  # in the order they were written
                if fact not in unlike and here.get(fact) != there.get(fact):
                    return Difference(step + 1, monitor, fact)
    return None


def _unlike_at_first(one: Testimony, other: Testimony) -> list[str]:
    found: dict[str, None] = {}
    for monitor in one.steps:
        here, there = (_at(testimony, monitor, 0) for testimony in (one, other))
        found |= dict.fromkeys(fact for fact in here if here[fact] != there.get(fact))
    return list(found)


def longest(testimony: Testimony) -> int:
    """Steps that any monitor has seen."""
    return max(map(len, testimony.steps.values()), default=0)


def _at(testimony: Testimony, monitor: str, step: int) -> Mapping[str, str]:
    steps = testimony.steps.get(monitor, ())
    return steps[step] if step < len(steps) else {}
