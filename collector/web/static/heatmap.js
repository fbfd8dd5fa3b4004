// Heatmap: layers by steps, one cell a measurement, so that depth and time can be seen at once.

import { el } from "./dom.js";
import { distinct, tick, unit } from "./format.js";
import { sequential } from "./palette.js";
import { align } from "./series.js";
import { outcomeMarks } from "./shapes.js";
import { colour } from "./theme.js";

/** The shape of a heatmap: row 0, the first layer, is at the top. */
export function heatmap(list, { log, range }) {
  const { steps, at } = align(list);
  const count = list.length;
  const names = distinct(list.map((series) => series.labels.layer));
  const shape = {
    kind: "heatmap",
    list,
    at,
    data: [steps, steps.map(() => null)],
    series: [{ stroke: null, points: { show: false } }],
    y: {
      log: false,
      range: () => [-0.5, count - 0.5],
      splits: (room) => list.map((_, row) => count - 1 - row).filter((_, row) => row % roundUp(count / Math.max(room * 2, 1)) === 0),
      labels: (splits) => splits.map((y) => shortened(names[count - 1 - y])),
    },
    /** The layer under the cursor. */
    rowAt: (u) => Math.min(Math.max(Math.round(count - 1 - u.posToVal(u.cursor.top, "y")), 0), count - 1),
    paint: outcomeMarks,
    cells: (u) => paintCells(u, shape, log),
    key: { low: null, high: null, log },
  };
  [shape.key.low, shape.key.high] = span(list, log, range());
  return shape;
}

/** The colour scale with its ends and unit. */
export function colourKey({ low, high, log }, unitName) {
  const canvas = el("canvas", { class: "key-ramp", width: 96, height: 1, "aria-hidden": "true" });
  const ctx = canvas.getContext("2d");
  for (let x = 0; x < 96; x++) {
    ctx.fillStyle = sequential(x / 95);
    ctx.fillRect(x, 0, 1, 1);
  }
  const note = [unit(unitName), log ? "log colours" : ""].filter(Boolean).join(", ");
  return el(
    "span",
    { class: "key" },
    el("span", {}, tick(round(low)) ?? "—"),
    canvas,
    el("span", {}, tick(round(high)) ?? "—"),
    note ? el("span", { class: "quiet" }, note) : null,
  );
}

function paintCells(u, shape, log) {
  const { ctx, bbox, data } = u;
  const steps = data[0];
  if (steps.length === 0) return;
  const { low, high } = shape.key;
  const share = log ? (x) => Math.log(x / low) / Math.log(high / low || 1) : (x) => (x - low) / (high - low || 1);
  const position = steps.map((step) => u.valToPos(step, "x", true));
  const rows = shape.list.length;
  const height = bbox.height / rows;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.fillStyle = colour("--nothing");
  ctx.fillRect(bbox.left, bbox.top, bbox.width, bbox.height);
  for (let row = 0; row < rows; row++) {
    const { value } = shape.list[row].current;
    const top = Math.round(bbox.top + row * height);
    const bottom = Math.round(bbox.top + (row + 1) * height);
    const measured = shape.at[row].map((i, column) => (i < 0 ? -1 : column)).filter((column) => column >= 0);
    for (const [m, column] of measured.entries()) {
      const x = value[shape.at[row][column]];
      if (x === null || (log && x <= 0)) continue;
      const here = position[column];
      const left = m === 0 ? here - 2 * uPlot.pxRatio : (position[measured[m - 1]] + here) / 2;
      const right = m === measured.length - 1 ? here + 2 * uPlot.pxRatio : (here + position[measured[m + 1]]) / 2;
      if (right < bbox.left || left > bbox.left + bbox.width) continue;
      ctx.fillStyle = sequential(share(x));
      ctx.fillRect(Math.round(left), top, Math.max(Math.round(right) - Math.round(left), 1), bottom - top - (height > 6 * uPlot.pxRatio ? 1 : 0));
    }
  }
  ctx.restore();
}

function span(list, log, [first, last]) {
  let low = null;
  let high = null;
  for (const { current } of list) {
    for (const [i, x] of current.value.entries()) {
      if (x === null || (log && x <= 0) || current.step[i] < first || current.step[i] > last) continue;
      if (low === null || x < low) low = x;
      if (high === null || x > high) high = x;
    }
  }
  return [low, high];
}

function round(x) {
  return x === null ? null : Number(x.toPrecision(2));
}

/** The least of 1, 2, 5, 10, 20, … that is not less. */
function roundUp(x) {
  const power = 10 ** Math.max(Math.floor(Math.log10(x)), 0);
  return [1, 2, 5, 10].map((lead) => lead * power).find((each) => each >= x);
}

function shortened(name) {
  return name.length > 9 ? `…${name.slice(-8)}` : name;
}
