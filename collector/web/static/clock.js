// Clock: when each step of a run was, by its own reports: for how long it had trained, and what time it was.

import { ask } from "./link.js";

const LEAST = 1e-6; // seconds from one report to the next, however coarse the job's clock is
const MOST = 6000; // reports that are held; the collector tells two thousand or so at once

export class Clock {
  #told = { step: [], time: [], ran: [], life: [] };
  #frame = 0;
  #most = MOST;
  #ways = {};

  /** `path` is that of the run in the collector's API. */
  constructor(path) {
    this.path = path;
  }

  /** Ask for what is new; or, where that has become more than an axis needs, for all of it once more, thinned. */
  async refresh() {
    const after = this.#told.step.length > this.#most ? 0 : this.#frame;
    const answer = await ask(`${this.path}/times?${new URLSearchParams({ after })}`);
    if (after === 0 || answer.again) {
      for (const column of Object.values(this.#told)) column.length = 0;
      this.#most = Math.max(MOST, 3 * answer.step.length); // of very many lives more are told, each time
    }
    this.take(answer);
  }

  take(answer) {
    this.by = answer.clock;
    this.#frame = answer.frame;
    for (const [name, column] of Object.entries(this.#told)) for (const x of answer[name]) column.push(x);
    if (answer.step.length > 0) this.#ways = ways(this.#told);
  }

  /** Whether any time is known. */
  get isKnown() {
    return this.#told.step.length > 0;
  }

  /** Seconds that the run had trained by a step, in all its lives: what lies between two of them is left out. */
  get trained() {
    return this.#ways.trained;
  }

  /** Seconds from its first report to a step, by the clock on the wall. */
  get passed() {
    return this.#ways.passed;
  }

  /** When its first report was made, Unix seconds. */
  get began() {
    return this.#told.time[0];
  }
}

/** From steps to seconds and back, straight between what is known and at the pace of the whole run beyond it. */
class Way {
  constructor(steps, seconds) {
    this.steps = steps;
    this.seconds = seconds;
    const last = steps.length - 1;
    this.pace = last > 0 ? (seconds[last] - seconds[0]) / (steps[last] - steps[0]) : 1;
  }

  at = (step) => between(this.steps, this.seconds, step, this.pace);
  back = (second) => between(this.seconds, this.steps, second, 1 / this.pace);
}

/**
 * The reports that still count, in step order: where training went back to an earlier step, those of the stretch it left behind are
 * set aside as the points are. The time they took is not: the job has spent it.
 */
function ways({ step, time, ran, life }) {
  const before = new Map();
  const latest = new Map();
  const kept = [];
  const trained = step.map((_, i) => {
    if (!before.has(life[i])) before.set(life[i], [...latest.values()].reduce((sum, seconds) => sum + seconds, 0));
    latest.set(life[i], ran[i]);
    while (kept.length > 0 && step[kept.at(-1)] >= step[i]) kept.pop();
    kept.push(i);
    return before.get(life[i]) + ran[i];
  });
  const steps = kept.map((i) => step[i]);
  const way = (seconds) => new Way(steps, rising(kept.map((i) => seconds[i])));
  const passed = way(time.map((each) => each - time[0]));
  return { passed, trained: ran.some((seconds) => seconds > 0) ? way(trained) : passed }; // not every agent counts
}

/** Clocks are set back, and lives may be delivered late: an axis only goes on. */
function rising(seconds) {
  for (let i = 1; i < seconds.length; i++) seconds[i] = Math.max(seconds[i], seconds[i - 1] + LEAST);
  return seconds;
}

/** The `to` of an x on the line through all points of `from` and `to`, both rising. */
function between(from, to, x, pace) {
  const last = from.length - 1;
  if (x <= from[0]) return to[0] + (x - from[0]) * pace;
  if (x >= from[last]) return to[last] + (x - from[last]) * pace;
  let low = 0;
  let high = last;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (from[middle] <= x) low = middle;
    else high = middle;
  }
  return to[low] + ((x - from[low]) / (from[high] - from[low])) * (to[high] - to[low]);
}
