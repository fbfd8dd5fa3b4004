"""Runs as a pipeline would have filled them into Live, for the views that read it."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from collector.live import Latest, Live, LiveRun, ProbeState, RankState, SeriesKey
from collector.phases import Judged, NoiseCard, Span
from collector.phases.transition import Evidence, Transition, Window
from probe_wire import Column, Estimate, Losses, Outcome, Quantity, Run

LAYERS = ("features.0", "features.3", "features.6", "classifier.10", "classifier.2")
NATS_SQUARED = Quantity("fisher_trace", "nats", "Trace of the Fisher information.", "Fisher trace", "log")
COMPLEXITY = Quantity("local_complexity", "regions", "Regions cut by hyperplanes.", "Local complexity")
LOSS = Quantity("train_loss", "nats", "Loss on the probe set.", "Loss", "log")
SHARPNESS = Quantity("sharpness", "1", "Largest eigenvalue of the Hessian.", "Sharpness", "log")


def open_run(live: Live, name: str = "resnet", *, id: str | None = None, now: float, **about: object) -> LiveRun:  # noqa: A002
    """A run that was just heard."""
    settings: dict[str, object] = {
        "host": "gpu-1",
        "pid": 7,
        "started_at": now - 100.0,
        "git_revision": "abc123",
        **about,
    }
    run = live.open(Run(id=id or f"id-{name.encode().hex()[:20]}", name=name, **settings), now)  # type: ignore[arg-type]
    run.ranks[0] = RankState(
        step=400, last_heard=now, training_seconds=98.0, probe_seconds=2.0, reports=4, clock_ahead=0.2, lag=0.05
    )
    return run


def report(
    run: LiveRun, step: int, rows: Iterator[tuple[Quantity, Mapping[str, str], Estimate]], *, rank: int = 0
) -> None:
    """The newest estimates of some series."""
    for quantity, labels, estimate in rows:
        run.quantities[quantity.name] = quantity
        key = SeriesKey.of(rank, Column(quantity.name, dict(labels)))
        run.latest[key] = Latest(step, estimate, run.latest[key].position if key in run.latest else len(run.latest))


def typical(step: int) -> Iterator[tuple[Quantity, Mapping[str, str], Estimate]]:
    """What a small convolutional network reports at a step: the Fisher trace rises, peaks at 300 and declines."""
    bump = math.exp(-(((step - 300) / 200) ** 2))
    yield LOSS, {"split": "train"}, Estimate(2.3 / (1 + step / 200), 0.01, 0.002, 256)
    yield SHARPNESS, {}, Estimate(20.0 + step / 10, 0.5, math.nan, 1, Outcome.NOT_CONVERGED)
    yield NATS_SQUARED, {}, Estimate(10 * bump, 0.4, 0.1, 256)
    for depth, layer in enumerate(LAYERS):
        yield NATS_SQUARED, {"layer": layer}, Estimate(bump * (depth + 1), 0.1, 0.02, 256)
    for depth, layer in enumerate(LAYERS):
        yield COMPLEXITY, {"layer": layer}, Estimate(50.0 - depth - step / 100, 1.0, 0.5, 64)


def transition(machine: str, from_phase: str, to_phase: str, **changed: object) -> Transition:
    """A transition with plausible evidence."""
    window = Window(first_step=200, last_step=300, n=11, mean=10.0, stderr=0.1)
    evidence = Evidence(
        quantity="fisher_trace",
        labels={},
        statistic="reflection",
        log_e=9.0,
        alpha=0.01,
        before=window,
        after=Window(first_step=400, last_step=500, n=11, mean=8.0, stderr=0.1),
        change=-0.2,
        noise=0.03,
        points=50,
        cleaned=0,
        sentence="The mean of steps 400-500 is 20 % below that of steps 200-300.",
    )
    made: dict[str, object] = {
        "machine": machine,
        "machine_version": "1",
        "subject": {},
        "ordinal": 1,
        "from_phase": from_phase,
        "to_phase": to_phase,
        "happened_step": 300,
        "happened_between": (280, 330),
        "known_step": 400,
        "confidence": 0.995,
        "severity": "info",
        "advice": "Augmentation may be removed.",
        "undo": "",
        "evidence": evidence,
    }
    return Transition(**{**made, **changed})  # type: ignore[arg-type]


def machines_of(run: LiveRun, machines: Mapping[str, tuple[str, ...]]) -> None:
    """The run is in the first phase of every machine, and nothing was entered yet."""
    for machine, phases in machines.items():
        run.spans.append(Span(machine, {}, phases[0], 0, None))
        run.transition_counts.update({(machine, phase): 0 for phase in phases[1:]})


def enter(run: LiveRun, made: Transition, now: float) -> None:
    """The run changes phase, as the pipeline would record it."""
    run.spans = [
        Span(s.machine, s.subject, s.phase, s.since_step, made.happened_step)
        if (s.machine, s.subject, s.until_step) == (made.machine, made.subject, None)
        else s
        for s in run.spans
    ]
    run.spans.append(Span(made.machine, made.subject, made.to_phase, made.happened_step, None))
    run.enter(made, now)


def judge(run: LiveRun, machine: str, **noise: object) -> None:
    """A machine judges a series, and this is what is known of its noise."""
    card: dict[str, object] = {
        "probes": 80,
        "believed": 0.03,
        "estimator": 0.02,
        "process": 0.01,
        "autocorrelation": 0.1,
        "tails": 1.1,
        "outliers": 0.0,
        "verdict": "white",
    }
    subject = noise.pop("subject", {})
    run.judged.append(Judged(machine, subject, "fisher_trace", NoiseCard(**{**card, **noise})))  # type: ignore[arg-type]


def losses(run: LiveRun, *, lost: int = 0, dropped: int = 0, skipped: int = 0) -> None:
    """What went missing on rank 0."""
    run.ranks[0].lost = lost
    run.ranks[0].losses = Losses(reports_dropped=dropped, snapshots_skipped=skipped)


def probe(run: LiveRun, name: str, seconds: float, **outcomes: int) -> None:
    """What a probe cost so far."""
    run.probes[name] = ProbeState(seconds, Counter({Outcome[key.upper()]: n for key, n in outcomes.items()}))
