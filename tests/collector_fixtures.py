"""A digits-like run in a real store: about 150 log-spaced steps, eight quantities, three transitions, an unfreezing, some failures.

The curves are drawn from formulas with seeded noise, so a test or a screenshot sees the same run
every time. ``Seeded`` can also go on training, to show a page what live means.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from collector.live import Live, ProbeState, RankState
from collector.phases import Judged, NoiseCard
from collector.phases.spans import spans_of
from collector.phases.transition import Evidence, Transition, Window
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.store.streams import Stream
from collector.web.feed import Feed
from probe_wire import (
    Column,
    Estimate,
    Goodbye,
    Hello,
    Losses,
    Outcome,
    ProbeCost,
    Quantity,
    Report,
    Run,
    Schema,
    encode,
    pack,
)

LAYERS = ("conv1", "conv2", "fc1", "fc2", "fc3", "head")
SETTINGS = {"samples": "512", "mode": "evaluation"}
QUANTITIES = (
    Quantity(
        "probe_loss",
        "nats",
        "Mean negative log-likelihood on the probe batch, in evaluation mode.",
        "Probe loss",
        "log",
    ),
    Quantity(
        "probe_accuracy",
        "ratio",
        "Share of the probe batch classified correctly, in evaluation mode.",
        "Probe accuracy",
    ),
    Quantity(
        "fisher_trace",
        "1",
        "Trace of the Fisher information matrix per sample, labels summed exactly over the model's own distribution. It rises "
        "while the network takes up information and falls once the critical period is over (Achille et al. 2019).",
        "Fisher trace",
        "log",
    ),
    Quantity(
        "fisher_trace_empirical",
        "1",
        "The same with the data's labels: the mean squared gradient norm.",
        "Empirical Fisher trace",
        "log",
    ),
    Quantity(
        "hessian_lambda_max",
        "1",
        "Largest eigenvalue of the Hessian of the probe loss, by Lanczos iteration. Gradient descent is stable below 2 / rate.",
        "Sharpness",
    ),
    Quantity(
        "local_complexity",
        "regions",
        "Mean number of linear regions of the network met within a small frame around a probe sample (Humayun et al. 2024).",
        "Local complexity",
    ),
    Quantity(
        "weight_distance",
        "1",
        "Distance of the weights from their initial values, relative to their norm then.",
        "Distance travelled",
        "log",
    ),
    Quantity("trainable_parameters", "1", "How many numbers the optimizer may change.", "Trainable parameters"),
)
_MEASURED = (
    ("loss", Column("probe_loss")),
    ("loss", Column("probe_accuracy")),
    ("fisher_trace", Column("fisher_trace")),
    *(("fisher_trace", Column("fisher_trace", {"layer": layer})) for layer in LAYERS),
    ("fisher_trace", Column("fisher_trace_empirical")),
    ("sharpness", Column("hessian_lambda_max")),
    ("local_complexity", Column("local_complexity")),
    *(("local_complexity", Column("local_complexity", {"layer": layer})) for layer in LAYERS[2:]),
    ("", Column("weight_distance")),
    ("weights", Column("trainable_parameters")),
)
UNFROZEN = 100
"""From this step on the whole network is trained, and not its head alone."""
COLUMNS = tuple(
    Column(column.quantity, column.labels, SETTINGS | {"probe": probe} if probe else {}) for probe, column in _MEASURED
)
SCHEMA = Schema(1, QUANTITIES, COLUMNS)
FISHER, COMPLEXITY, SHARPNESS = (
    next(i for i, column in enumerate(COLUMNS) if (column.quantity, column.labels) == (name, {}))
    for name in ("fisher_trace", "local_complexity", "hessian_lambda_max")
)
STEPS = tuple(sorted({0, *(round(10 ** (i / 52)) for i in range(202))}))  # 0 to about 7,300


def window(column: int, first: int, last: int) -> Window:
    """What the curve of a column averages to between two steps."""
    values = np.array([measure(step)[column].value for step in STEPS if first <= step <= last])
    return Window(first, last, values.size, float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)))


CARD = NoiseCard(154, 0.021, 0.018, 0.009, 0.12, 1.1, 0.0065, "white")
WANDERING = NoiseCard(154, 0.034, None, 0.034, 0.95, 1.3, 0.0, "unassessable")


def evidence(column: int, before: tuple[int, int], after: tuple[int, int], log_e: float) -> Evidence:
    """The figures of a turn, taken from the curve itself."""
    first, second = window(column, *before), window(column, *after)
    change = second.mean / first.mean - 1
    quantity = COLUMNS[column].quantity
    points = sum(step <= after[1] for step in STEPS)
    how = "rose" if change > 0 else "fell"
    sentence = f"{quantity} {how} by {abs(change):.1%} between the two windows, against a noise of 2.1 % of one point."
    return Evidence(
        quantity, {}, "reflected_gauss_e_process", log_e, 0.005, first, second, change, 0.021, points, 1, sentence, CARD
    )


def transition(**changes: Any) -> Transition:
    """The end of the critical period, or something like it."""
    ended = Transition(
        machine="critical_period",
        machine_version="1",
        subject={},
        ordinal=2,
        from_phase="critical_period",
        to_phase="after_critical_period",
        happened_step=538,
        happened_between=(451, 614),
        known_step=1304,
        confidence=0.9991,
        severity="warning",
        advice="Critical period ended, safe to remove augmentation that was there to protect it.",
        undo="Put the augmentation back at its former strength; what was learned so far is kept.",
        evidence=evidence(FISHER, (451, 614), (1000, 1304), 7.01),
    )
    return replace(ended, **changes)


def began() -> Transition:
    """The beginning of the critical period."""
    return transition(
        ordinal=1,
        from_phase="early",
        to_phase="critical_period",
        happened_step=12,
        happened_between=(9, 15),
        known_step=24,
        confidence=0.99997,
        severity="info",
        advice="Critical period: keep augmentation, curriculum and data quality as they are until it ends.",
        undo="",
        evidence=evidence(FISHER, (4, 11), (16, 24), 10.4),
    )


def complexity_turn() -> Transition:
    """Local complexity passed its first valley."""
    return transition(
        machine="local_complexity",
        ordinal=1,
        from_phase="initial",
        to_phase="ascent",
        happened_step=119,
        happened_between=(96, 143),
        known_step=232,
        confidence=0.9987,
        severity="info",
        advice="",
        undo="",
        evidence=evidence(COMPLEXITY, (96, 143), (170, 232), 6.65),
    )


@dataclass
class Seeded:
    """A run in a store, with the parts a page is made of. ``train`` continues it."""

    store: Store
    reader: Reader
    live: Live
    feed: Feed
    run: Run
    stream: Stream
    clock: float
    seq: int = 0
    probes: dict[str, float] = field(default_factory=dict)
    pace: float = 1.0
    """How fast it learns; at half the pace, step 100 is what step 50 would be."""

    @property
    def path(self) -> Path:
        """Where the store is."""
        return self.store.path

    def report(self, step: int) -> int:
        """Store the report of a step and show it in memory, as the pipeline does. Returns its frame."""
        self.seq += 1
        self.clock += 0.4
        estimates = measure(round(step * self.pace))
        values, stderrs, paired, ns, outcomes = pack(estimates)
        message = Report(self.seq, step, self.clock, SCHEMA.id, values, stderrs, paired, ns, outcomes)
        frame = self.store.put_report(self.stream, message, encode(message), self.clock)
        with self.live.lock:
            live = self.live.open(self.run, self.clock)
            rank = live.ranks.setdefault(0, RankState())
            rank.step, rank.last_heard, rank.reports = step, self.clock, self.seq
            rank.training_seconds, rank.probe_seconds = 0.011 * step + 2, 0.0002 * step + 0.06 + 0.002 * self.seq
            for name, seconds in (
                ("loss", 0.004),
                ("fisher_trace", 0.031),
                ("sharpness", 0.062),
                ("local_complexity", 0.018),
            ):
                odd = name == "sharpness" and estimates[SHARPNESS].outcome
                outcome = odd or Outcome.OK
                live.charge(
                    (ProbeCost(name, seconds, int(outcome), "32 iterations left a residual of 0.08" if odd else ""),),
                )
        return frame

    def train(self, steps: Iterator[int] | tuple[int, ...]) -> int:
        """Report several steps, commit them, tell the feed of the last, and return its frame."""
        frame, step = 0, 0
        for step in steps:
            frame = self.report(step)
        self.store.commit()
        self.feed.tick(self.run.id, step, frame)
        return frame

    def turn(self, change: Transition, *, told: bool = True) -> None:
        """Store a transition, show it in memory, and tell the feed."""
        frame = sum(step <= change.known_step for step in STEPS)
        self.store.put_transition(self.run.id, change, min(frame, self.seq), self.clock)
        self.store.commit()
        with self.live.lock:
            live = self.live.open(self.run, self.clock)
            live.enter(change, self.clock)
            live.spans = spans_of(live.transitions)
        if told:
            self.feed.handle(self.run, change)

    def finish(self) -> None:
        """Say goodbye."""
        self.seq += 1
        goodbye = Goodbye(self.seq, STEPS[-1], self.clock, "finished")
        self.store.put_goodbye(self.stream, goodbye, encode(goodbye), self.clock)
        self.store.commit()
        with self.live.lock:
            self.live.open(self.run, self.clock).ranks[0].finished = True


def digits_run(run_id: str = "d1a9f0c2b7e4", name: str = "digits-cnn", started_at: float = 1_790_000_000.0) -> Run:
    """Who the seeded run is."""
    labels = {"dataset": "digits", "optimizer": "sgd"}
    return Run(run_id, name, "gpu-07", 41_822, started_at, labels, "9f3c2ab81d5e", "0.1.0", 1)


def seed(path: Path, *, steps: tuple[int, ...] = STEPS, now: float, turns: bool = True) -> Seeded:
    """A store with the digits run, heard of last at ``now``."""
    store = Store(path)
    started = now - 0.4 * len(steps)
    run = digits_run(started_at=started)
    stream = store.put_hello(Hello(run, 0, "e1", 1), started)
    store.put_schema(stream, SCHEMA, encode(SCHEMA))
    store.commit()
    seeded = Seeded(store, Reader(path), Live(), Feed(), run, stream, started)
    seeded.train(steps)
    with seeded.live.lock:
        live = seeded.live.runs[run.id]
        live.ranks[0].losses = Losses(0, 3, 0)
        live.probes.setdefault("loss", ProbeState())
        live.judged = [
            Judged("critical_period", {}, "fisher_trace", CARD),
            Judged("intervention_removal", {}, "fisher_trace", CARD),
            Judged("local_complexity", {}, "local_complexity", WANDERING),
        ]
    if turns:
        for change in (began(), complexity_turn(), transition()):
            seeded.turn(change)
    return seeded


def measure(step: int) -> list[Estimate]:
    """What the probes would have measured at a step."""
    rng = np.random.default_rng(step + 1)
    t = math.log10(step + 1)

    def noisy(level: float, noise: float, n: int = 512) -> Estimate:
        return Estimate(level * (1 + noise * rng.standard_normal()), 2.4 * noise * level, noise * level, n)

    fitted = 1 / (1 + math.exp(-3.1 * (t - 2.25)))
    loss = 2.31 * (1 - fitted) + 0.018 * (1 + 0.3 * math.cos(5 * t))
    fisher = 1.4 + 61 * math.exp(-(((t - 2.72) / 0.78) ** 2)) + 6 * fitted
    complexity = (
        31 - 11 * math.exp(-(((t - 2.05) / 0.55) ** 2)) + 9 * math.exp(-(((t - 3.0) / 0.45) ** 2)) - 3 * max(t - 3.2, 0)
    )
    estimates = [
        noisy(loss, 0.02),
        noisy(min(0.1 + 0.885 * fitted, 0.994), 0.004),
        noisy(fisher, 0.02),
    ]
    for depth in range(len(LAYERS)):
        peak = 3.0 - 0.16 * depth
        estimates.append(noisy((0.2 + 0.14 * depth) * (0.9 + 40 * math.exp(-(((t - peak) / 0.7) ** 2))), 0.035))
    empirical = noisy(fisher * (0.35 + 0.9 * (1 - fitted)), 0.06)
    estimates.append(Estimate(empirical.value, math.nan, math.nan, 512))
    sharpness = noisy(4 + 36 * (1 / (1 + math.exp(-3.6 * (t - 2.4)))), 0.03)
    if step in {12, 13, 14} or 1900 < step < 2150:
        sharpness = Estimate(sharpness.value, math.nan, math.nan, 32, Outcome.NOT_CONVERGED)
    elif 320 < step < 400 or step == 55:
        sharpness = Estimate.without_value(Outcome.OVER_BUDGET)
    estimates.append(sharpness)
    estimates.append(noisy(complexity, 0.018))
    estimates += [
        noisy(complexity * (0.14 + 0.07 * depth) * (1 + 0.1 * math.sin(2 * t + depth)), 0.03)
        for depth in range(len(LAYERS) - 2)
    ]
    travelled = 0.0 if step == 0 else 0.9 * (1 - math.exp(-0.011 * step**0.62))
    estimates.append(Estimate(travelled, 0.0, 0.0, 1))
    estimates.append(Estimate(650.0 if step < UNFROZEN else 12_345.0, 0.0, 0.0, 1))
    return estimates
