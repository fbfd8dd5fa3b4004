// Shapes: what a chart draws of a quantity: its line with a band, or one line for each layer.
//
// A shape is a plain object that the plot looks at whenever it draws, so that new points can be put
// into it without building the chart again. `at[s][row]` is the point of series s in a row of the
// chart's data, or -1; `stride` is the number of the chart's columns each series takes.

import { linearRange, logRange } from "./axes.js";
import { byDepth, faint } from "./palette.js";
import { align } from "./series.js";
import { colour } from "./theme.js";

export const STANDARD_ERRORS = 1.96;
const OK = 0;

/** Lines with uncertainty bands: the whole network, perhaps split by rank or another label. */
export function lines(list, { log, ratio, range }) {
  const { steps, at } = align(list);
  const shape = { list, at, stride: 3, data: [steps], series: [], bands: [], inks: [], uncertain: false, focus: list.length > 1 };
  for (const [s, one] of list.entries()) {
    const ink = list.length === 1 ? colour("--line") : colour(`--line-${s % 4}`);
    const { value, stderr } = one.current;
    const shown = (i) => (value[i] === null || (log && value[i] <= 0) ? null : value[i]);
    const bound = (sign) => (i) => {
      if (shown(i) === null || stderr[i] === null) return null;
      shape.uncertain = true;
      const x = value[i] + sign * STANDARD_ERRORS * stderr[i];
      return log ? Math.max(x, value[i] * 1e-3) : x; // a band that reaches zero runs off a log axis
    };
    for (const of of [shown, bound(+1), bound(-1)]) shape.data.push(at[s].map((i) => (i < 0 ? undefined : of(i))));
    const first = shape.series.length + 1;
    const bare = { stroke: null, points: { show: false } };
    shape.series.push({ stroke: ink, width: 1.75, points: dots(ink, s) }, bare, { ...bare });
    shape.bands.push({ series: [first + 1, first + 2], fill: faint(ink, 0.17) });
    shape.inks.push(ink);
  }
  const columns = (...offsets) => list.flatMap((_, s) => offsets.map((offset) => 3 * s + offset));
  const values = (u) => visible(u, columns(1), range());
  shape.y = { log, range: (u) => (log ? logRange(values(u)) : linearRange(values(u), visible(u, columns(2, 3), range()), ratio)) };
  shape.paint = outcomeMarks;
  return shape;
}

/** One line for every layer, coloured by depth. Bands would hide each other and are left to the readout. */
export function layers(list, { log, ratio, range }) {
  const { steps, at } = align(list);
  const shape = { list, at, stride: 1, data: [steps], series: [], inks: [], focus: true };
  for (const [s, one] of list.entries()) {
    const { value } = one.current;
    const ink = byDepth(s, list.length);
    shape.data.push(at[s].map((i) => (i < 0 ? undefined : value[i] === null || (log && value[i] <= 0) ? null : value[i])));
    shape.series.push({ stroke: ink, width: 1.5, points: { show: false } });
    shape.inks.push(ink);
  }
  const values = (u) => visible(u, list.map((_, s) => s + 1), range());
  shape.y = { log, range: (u) => (log ? logRange(values(u)) : linearRange(values(u), [], ratio)) };
  shape.paint = outcomeMarks;
  return shape;
}

/** Marks along the axis at each step where a series did not come out ok: a gap is never without a reason. */
export function outcomeMarks(u, shape) {
  const { ctx, bbox } = u;
  const size = 3.5 * uPlot.pxRatio;
  const y = bbox.top + bbox.height - size - uPlot.pxRatio;
  const { min, max } = u.scales.x;
  const marked = new Set();
  for (const [s, one] of shape.list.entries()) {
    const { outcome } = one.current;
    for (const [row, i] of shape.at[s].entries()) if (i >= 0 && outcome[i] !== OK) marked.add(row);
  }
  ctx.save();
  ctx.fillStyle = colour("--warn");
  for (const row of marked) {
    const step = u.data[0][row];
    if (step < min || step > max) continue;
    const x = u.valToPos(step, "x", true);
    ctx.beginPath();
    ctx.moveTo(x, y - size);
    ctx.lineTo(x + size, y + size);
    ctx.lineTo(x - size, y + size);
    ctx.fill();
  }
  ctx.restore();
}

/** Dots where points are few; at any density those alone between gaps, and hollow those that did not come out ok. */
function dots(ink, s) {
  return {
    size: 5,
    fill: () => colour("--surface"),
    stroke: ink,
    width: 1.25,
    filter: (u, column, show) => {
      if (show) return null;
      const { at, list } = u.shape;
      const { outcome } = list[s].current;
      const values = u.data[column];
      const empty = (row) => (values[row] ?? null) === null;
      const picked = [];
      for (let row = 0; row < values.length; row++) {
        if (empty(row)) continue;
        if (outcome[at[s][row]] !== OK || (empty(row - 1) && empty(row + 1))) picked.push(row);
      }
      return picked;
    },
  };
}

function visible(u, columns, [low, high]) {
  const steps = u.data[0];
  const values = [];
  for (let row = 0; row < steps.length; row++) {
    if (steps[row] < low || steps[row] > high) continue;
    for (const column of columns) values.push(u.data[column][row]);
  }
  return values;
}
