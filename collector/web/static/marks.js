// Marks: steps at which the set of trained parameters changed, painted on every chart.

import { number } from "./format.js";

const MOST = 100;

/** Of the series of how many parameters are trained, where they step: `{ step, text }`, the latest `MOST`. */
export function marksOf(list) {
  const marks = new Map();
  for (const series of list) {
    const { step, value } = series.current;
    for (let i = 1; i < step.length; i++) {
      if (value[i] !== null && value[i - 1] !== null && value[i] !== value[i - 1])
        marks.set(step[i], { step: step[i], text: `trained: ${number(value[i - 1])} → ${number(value[i])}` });
    }
  }
  return [...marks.values()].slice(-MOST);
}
