// X axis: what runs along the foot of all charts. A place on it is always a step; steps are spread evenly, early ones wider, or by time.

import { stepTicks } from "./axes.js";
import { elapsed, instant, stepTick } from "./format.js";
import { dayTicks, elapsedTicks } from "./timeticks.js";

export const BY_STEPS = [
  ["log", "log step", "Steps, early ones spread out"],
  ["linear", "step", "Steps, evenly spaced"],
];
export const BY_TIME = [
  ["time", "time", "How long the run had trained; where it stood still between two lives is left out"],
  ["clock", "clock", "What time it was, by the job's clock and in your time zone"],
];

/**
 * `{ name, isApart, at(step), back(x), ticks(low, high, count), when(step) }`: where a step is, on any scale, and which step is there;
 * the ticks between two steps with what they count, `{ ticks: [{ at, text }], label }`; and in words when a step was. As `name`
 * asks, and while the clock knows nothing by steps.
 */
export function axisOf(name, clock) {
  const known = clock?.isKnown ?? false;
  const after = known ? (step) => elapsed(clock.trained.at(step)) : () => "";
  const by = (words) => (clock.by === "job" ? words : `${words}, as reports reached the collector`);
  if (name === "time" && known) return { name, isApart: false, ...clock.trained, when: after, ticks: timed(clock.trained, elapsedTicks, 0, (unit) => by(trained(unit))) };
  if (name === "clock" && known) {
    const when = (step) => instant(clock.began + clock.passed.at(step));
    return { name, isApart: false, ...clock.passed, when, ticks: timed(clock.passed, dayTicks, clock.began, by) };
  }
  const logarithmic = name !== "linear";
  const ticks = (low, high, count) => ({ ticks: stepTicks(low, high, count, logarithmic).map((step) => ({ at: step, text: stepTick(step, high) })), label: "step" });
  const [at, back] = logarithmic ? [Math.asinh, Math.sinh] : [same, same];
  return { name: logarithmic ? "log" : "linear", isApart: false, at, back, when: after, ticks };
}

/** The axis of several runs by time: each is drawn at its own seconds, so a place on it is no step, but apart from them. */
export function axisOfRuns(name) {
  if (name !== "time") return axisOf(name);
  return { name, isApart: true, at: same, back: same, when: elapsed, ticks: timed({ at: same, back: same }, elapsedTicks, 0, trained) };
}

function trained(unit) {
  return `time trained, ${unit}`;
}

function same(x) {
  return x;
}

function timed({ at, back }, ticksOf, origin, label) {
  return (low, high, count) => {
    const { ticks, unit } = ticksOf(origin + at(low), origin + at(high), count);
    return { ticks: ticks.map(({ x, text }) => ({ at: back(x - origin), text })), label: label(unit) };
  };
}
