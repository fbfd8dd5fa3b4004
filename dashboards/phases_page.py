"""docs/reference/phases.md: what a phase machine is and promises, and each that ships."""

from collections.abc import Iterable, Sequence

from collector.phases import ALPHA, Machine, Turn
from collector.phases import episode as life
from collector.phases.machine import TESTED, Given, shared
from collector.phases.meter import ENOUGH
from collector.phases.noise_card import CORRELATED
from collector.phases.observed import STEADY_FOR
from collector.phases.track import FIRST
from dashboards.pages import MADE

_ABOUT = f"""\
A **machine** is data: the phases that one quantity passes through, and the evidence that each **turn** between two of them
needs. It holds no state and says nothing of how evidence is computed, so it can be kept in a file, hashed and replayed; its
version is that hash, and travels with every transition. A cycle of turns arms it again after its last phase. A machine judges
nothing in a run that does not measure its quantity, and is not shown there.

## What a turn waits for

| `when` | what must be shown | what is promised |
|---|---|---|
| `rise`, `fall` | The mean is not what it would be had the curve only fallen (risen) since the phase began, and has changed by the least effect. Out of a phase that began with a rise, a fall has passed a peak. | The probability of ever claiming it falsely is at most the turn's α, at whatever step one looks, for independent noise of known size (here it is estimated). Correlated noise breaks that promise; the noise card says when. |
| `settle` | The slope is certainly less than `slope` times the steepest there was, for as long as the change took at its steepest. With a least effect: as many steps again would not change it by more. | Equivalence with an error of 2.3 % at a look, not over the run. Where noise hides the slope nothing is claimed: that no trend is seen is no evidence of none. |
| `hover` | The mean lies within `band` times the target, with error, and no longer approaches it. | As for `settle`. |
| `spike`, `calm`, `diverge` | Two probes in a row far above the running median; five that are not any more; two that are not finite, or eight that climb. | A rule of thumb; nothing bounds its errors. |
| `still` | The moving average of `window` probes has stopped moving. | As published, for comparison; nothing bounds its errors, and noise alone can do it. |
| `given` | Other quantities are where the turn has them, at two probes in a row. | A comparison of values; nothing bounds its errors. |

The step at which a turn *happened* is the turning point of the best unimodal curve, with an interval that reaches to the
probes on either side; the step at which it was *known* is that of the report that tipped the balance.

## The life of a claim

One claim is one **episode**, and each of its states is told once, under the same ordinal.

| state | when | what follows |
|---|---|---|
| `suspected` | e is at least {round(2.718281828459045**life.SUSPECTED)} (`rise` and `fall` only). | No phase is entered. The agent is asked to measure the quantity more often for a while. Without any evidence at {life.LAPSED_AFTER} probes in a row it lapses, which is told as `retracted`. |
| `detected` | e has reached 1/α, or the turn's rule holds. | The phase is entered. |
| `confirmed` | It has stood for {life.HOLD} probes and {life.HOLD_OF_RISE:g} of the time the change before it took, and a sign test agrees at e = {round(2.718281828459045**life.SECOND_KEY)} (of a phase of fewer than {life.SIGNS_FROM} probes: or the change exceeds {life.SHARP:g} standard deviations of a single one); without that {life.LONG_HOLD:g} times as long. A level: it still is one, and has lasted as long as the whole change took at its steepest. | |
| `retracted` | The reverse has been shown as strongly as the claim was, and the curve is back where it was before; or a level was left before it was confirmed, or the series is measured otherwise. | The run is in the phase before again; `undo` says what to do. |

A turn names the state in which a training loop is told (`act` below): `confirmed` where acting too early does harm that
nothing undoes, else `detected`. There is one such message an episode, and one more if it is withdrawn.

## How alpha is shared

A run's α, {ALPHA:.0%} unless `phases.alpha` says otherwise, bounds the probability that it makes *any* false claim. Machines that have a turn on a rise or a fall share it by weight.
Of a machine that judges layers, the i-th layer to appear gets 1/(i(i+1)) of the machine's part, so that their number need not be
known. Turns on a rise or a fall share what a machine has; the first time a phase is entered its turns get {FIRST:.0%} of that,
each later time the same part of what is left. The α below is that of the first time.

## The noise card

What a claim is worth depends on how single probes stray. For each judged series it is told on the page, on `/metrics`
(`phasewatch_noise_…`) and with every transition: the standard deviation of one probe relative to the level as the tests believe
it; what of that the estimator reports as its own paired error and what training adds; the coefficient of the AR(1) process whose
means would scatter alike; the tails beside a Gaussian's; the share of probes replaced as outliers. The marginal error is never used.

| verdict | meaning |
|---|---|
| `white` | Probes stray independently: the tests keep their promise. |
| `correlated` | The coefficient is {CORRELATED:g} or more: false claims are likelier than α says. |
| `unassessable` | A random walk of its steps is not ruled out, or not for {STEADY_FOR} probes yet: nothing is claimed but what goes much further. |
| `unknown` | Fewer than {ENOUGH} blocks of four probes: too few to tell. |

A random walk rises and falls for ever, and each time is evidence to a test for independent noise. It is ruled out where means of
three probes scatter too little for one, where the series goes further than one of its steps, or where probes stray no more than their
reported errors. Few probes seldom rule it out: a rise or a fall is believed then all the same, a change of a level is not. What was
believed so is confirmed only if, once there are enough, a random walk is ruled out.

An **aside** is what another quantity says at the moment a phase is entered, such as dead units for a descent that they explain.
"""

_WHEN = {
    "rise": "rises",
    "fall": "falls",
    "settle": "settles",
    "still": "is still",
    "hover": "hovers at its target",
    "spike": "spikes",
    "calm": "is calm again",
    "diverge": "diverges",
    "given": "",
}


def phases_page(machines: Sequence[Machine]) -> str:
    """The reference page, with a chapter for each machine."""
    parts = shared(machines, ALPHA)
    chapters = [line for machine in machines for line in _chapter(machine, parts[machine.name])]
    return "\n".join(["# Phase machines", "", MADE, "", _ABOUT, *chapters])


def _chapter(machine: Machine, alpha: float) -> Iterable[str]:
    labels = "".join(f", {name} `{value}`" for name, value in machine.labels.items())
    subject = "each layer by itself" if machine.subject == "layer" else "the whole network"
    yield from (f"## `{machine.name}`", "")
    yield f"Judges `{machine.quantity}` of {subject}{labels}; values on a {machine.value_scale} scale, steps on a {machine.step_scale} one."
    yield f"Version `{machine.version}`; α {_short(alpha)}{' in all layers' if machine.subject == 'layer' else ''}."
    if machine.source:
        yield from ("", machine.source)
    yield from ("", "| phase | meaning |", "|---|---|")
    for phase in machine.phases:
        yield f"| `{phase.name}`{' (may be absent)' if phase.optional else ''} | {_cell(phase.meaning)} |"
    yield from ("", "| from | to | when it | α | least effect | act | advice |", "|---|---|---|---|---|---|---|")
    for turn in machine.turns:
        yield _row(turn, machine, alpha)
    yield ""
    for aside in machine.asides:
        yield f"- Into `{aside.to_phase}` with {_bounds(aside)}: {aside.says}."
    if machine.asides:
        yield ""


def _row(turn: Turn, machine: Machine, alpha: float) -> str:
    given = " and ".join(_bounds(each) for each in turn.given)
    bounds = _within(turn.at_least, turn.at_most)
    when = " with ".join(part for part in (f"{_WHEN[turn.when]}{bounds and ' to '}{bounds}", given) if part)
    part = _short(alpha * machine.alpha(turn) * FIRST) if turn.when in TESTED else "–"
    effect = f"{turn.min_effect:.0%}" if turn.min_effect else "–"
    advice = _cell(turn.advice) or "–"
    return f"| `{turn.from_phase}` | `{turn.to_phase}` | {when} | {part} | {effect} | {turn.act} | {advice} |"


def _bounds(given: Given) -> str:
    name = f"`{given.quantity}`" + "".join(f" {value}" for value in given.labels.values())
    return f"{name} {_within(given.at_least, given.at_most)}"


def _within(least: float | None, most: float | None) -> str:
    bounds = (("at least", least), ("at most", most))
    return " and ".join(f"{word} {value:g}" for word, value in bounds if value is not None)


def _short(alpha: float) -> str:
    return f"{100 * alpha:.2g} %"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
