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

/** Lines with uncertainty bands: the whole network, perhaps split by rank or another label; or one of several runs, with `inks` theirs. */
export function lines(list, { log, ratio, range, inks }) {
  const { steps, at } = align(list);
  const shape = { kind: "lines", list, at, stride: 3, data: [steps], series: [], bands: [], inks: [], uncertain: false, focus: list.length > 1 };
  for (const [s, one] of list.entries()) {
    const ink = inks?.[s] ?? (list.length <= 4 ? colour(`--line-${s}`) : byDepth(s, list.length));
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
    shape.series.push({ stroke: ink, width: 1.75, points: dots(ink) }, bare, { ...bare });
    shape.bands.push({ series: [first + 1, first + 2], fill: faint(ink, 0.17 / Math.max(list.length / 4, 1)) }); // many bands over each other stay see-through
    shape.inks.push(ink);
  }
  const columns = (...offsets) => list.flatMap((_, s) => offsets.map((offset) => 3 * s + offset));
  const values = (u) => visible(u, columns(1), range());
  shape.y = { log, range: (u) => (log ? logRange(values(u)) : linearRange(values(u), visible(u, columns(2, 3), range()), ratio)) };
  shape.paint = (u) => {
    outcomeMarks(u, shape);
    if (steps.length === 1) whiskers(u, shape); // of one point there is no band
  };
  return shape;
}

/** One line for every layer, coloured by depth. Bands would hide each other and are left to the readout. */
export function layers(list, { log, ratio, range }) {
  const { steps, at } = align(list);
  const shape = { kind: "layers", list, at, stride: 1, data: [steps], series: [], inks: [], focus: true };
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

/**
 * A mark on the axis at each step where a series did not come out ok: a gap is never without a
 * reason. Where there is a value all the same, a ring around it says that it is not sound.
 */
export function outcomeMarks(u, shape) {
  const { min, max } = u.scales.x;
  const marked = new Set();
  u.ctx.save();
  u.ctx.fillStyle = u.ctx.strokeStyle = colour("--warn");
  u.ctx.lineWidth = 1.5 * uPlot.pxRatio;
  for (const [s, one] of shape.list.entries()) {
    const { outcome } = one.current;
    for (const [row, i] of shape.at[s].entries()) {
      const step = u.data[0][row];
      if (i < 0 || outcome[i] === OK || step < min || step > max) continue;
      marked.add(row);
      const value = shape.inks ? u.data[1 + s * shape.stride][row] : null;
      if (value !== null) ring(u, step, value);
    }
  }
  for (const row of marked) mark(u, u.data[0][row]);
  u.ctx.restore();
}

/** The uncertainty of single points. */
function whiskers(u, { inks, stride }) {
  const x = u.valToPos(u.data[0][0], "x", true);
  u.ctx.save();
  u.ctx.lineWidth = 1.5 * uPlot.pxRatio;
  for (const [s, ink] of inks.entries()) {
    const [high, low] = [2, 3].map((column) => u.data[s * stride + column][0]);
    if (high === null || high === undefined) continue;
    u.ctx.strokeStyle = ink;
    u.ctx.beginPath();
    u.ctx.moveTo(x, u.valToPos(high, "y", true));
    u.ctx.lineTo(x, u.valToPos(low, "y", true));
    u.ctx.stroke();
  }
  u.ctx.restore();
}

function ring({ ctx, valToPos }, step, value) {
  ctx.beginPath();
  ctx.arc(valToPos(step, "x", true), valToPos(value, "y", true), 3.5 * uPlot.pxRatio, 0, 2 * Math.PI);
  ctx.stroke();
}

function mark({ ctx, bbox, valToPos }, step) {
  const size = 3.5 * uPlot.pxRatio;
  const x = valToPos(step, "x", true);
  const y = bbox.top + bbox.height - size - uPlot.pxRatio;
  ctx.beginPath();
  ctx.moveTo(x, y - size);
  ctx.lineTo(x + size, y + size);
  ctx.lineTo(x - size, y + size);
  ctx.fill();
}

/** Dots where points are few, and at any density for those alone between gaps, which no line would show. */
function dots(ink) {
  return {
    size: 4,
    fill: ink,
    stroke: ink,
    filter: (u, column, show) => (show ? null : alone(u.data[column])),
  };
}

function alone(values) {
  const picked = [];
  let before = null; // the series' own neighbours: `undefined` rows belong to other series
  let here = -1;
  for (let row = 0; row <= values.length; row++) {
    if (row < values.length && values[row] === undefined) continue;
    const after = values[row] ?? null;
    if (here >= 0 && values[here] !== null && before === null && after === null) picked.push(here);
    before = here >= 0 ? values[here] : null;
    here = row;
  }
  return picked;
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
