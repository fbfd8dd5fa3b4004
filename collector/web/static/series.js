// Series: the points of one quantity as the collector sent them, and as a chart can draw them.

import { labelled } from "./format.js";

const OK = 0;

/** One series, in the order its points were committed. */
export class Series {
  constructor(sent) {
    this.rank = sent.rank;
    this.labels = sent.labels;
    this.settings = sent.settings;
    this.folded = 0;
    this.columns = { step: [], value: [], stderr: [], n: [], outcome: [] };
    this.append(sent);
  }

  get key() {
    return JSON.stringify([this.rank, this.labels]);
  }

  /** What tells it from its neighbours on one chart. */
  name(ranks, ofProbeSet = false) {
    const labels = ofProbeSet ? [labelled(this.labels), "probe set"].filter(Boolean).join(", ") : labelled(this.labels);
    const rank = ranks > 1 ? `rank ${this.rank}` : "";
    return [labels, rank].filter(Boolean).join(", ") || "value";
  }

  append(sent) {
    this.folded += sent.folded;
    for (const [name, column] of Object.entries(this.columns)) for (const x of sent[name]) column.push(x);
    this.history = null;
  }

  /**
   * Points in step order. Where training went back to an earlier step, the stretch it left behind is
   * set aside: `abandoned` counts its points.
   */
  get current() {
    if (this.history) return this.history;
    const { step } = this.columns;
    const kept = [];
    let abandoned = 0;
    for (let i = 0; i < step.length; i++) {
      while (kept.length > 0 && step[kept.at(-1)] >= step[i]) {
        kept.pop();
        abandoned++;
      }
      kept.push(i);
    }
    const point = {};
    for (const [name, column] of Object.entries(this.columns)) point[name] = abandoned ? kept.map((i) => column[i]) : column;
    this.history = { ...point, abandoned };
    return this.history;
  }
}

/** A series with its points elsewhere: each where `at` puts its step. `measured` are the steps. */
export function placed(series, at) {
  const { current } = series;
  return Object.create(series, { current: { value: { ...current, step: current.step.map(at), measured: current.step } } });
}

/** The series of one answer, keyed; fed again with what came after it. */
export class SeriesSet {
  constructor() {
    this.all = new Map();
    this.frame = 0;
  }

  take(answer) {
    if (answer.again) this.all.clear(); // an earlier life was delivered late: its points stand before others
    for (const sent of answer.series) {
      const key = JSON.stringify([sent.rank, sent.labels]);
      const known = this.all.get(key);
      if (known) known.append(sent);
      else this.all.set(key, new Series(sent));
    }
    this.frame = answer.frame;
  }

  get list() {
    return [...this.all.values()];
  }

  /** The longest series: where it outgrows what a chart can show, the page asks for a decimated copy. */
  get longest() {
    return Math.max(0, ...this.list.map((series) => series.columns.step.length));
  }
}

/** The steps of several series in one order, and where each series has a point: `at[s][i]` or -1. */
export function align(list) {
  const tables = list.map((series) => series.current.step);
  if (tables.length === 1) return { steps: tables[0], at: [tables[0].map((_, i) => i)] };
  const steps = [...new Set(tables.flat())].sort((a, b) => a - b);
  const place = new Map(steps.map((step, i) => [step, i]));
  const at = tables.map((table) => {
    const row = new Array(steps.length).fill(-1);
    table.forEach((step, i) => (row[place.get(step)] = i));
    return row;
  });
  return { steps, at };
}

/** What a chart cannot show of its points, counted: on a log axis those at or below zero, and the not ok. */
export function unseen(list, logarithmic) {
  const counts = { below: 0, withoutValue: 0, notOk: 0, folded: 0, abandoned: 0, total: 0 };
  for (const series of list) {
    const { value, outcome, abandoned } = series.current;
    counts.folded += series.folded;
    counts.abandoned += abandoned;
    counts.total += value.length;
    for (let i = 0; i < value.length; i++) {
      if (outcome[i] !== OK) counts.notOk++;
      else if (value[i] === null) counts.withoutValue++;
      if (value[i] === null) continue;
      if (logarithmic && value[i] <= 0) counts.below++;
    }
  }
  return counts;
}
