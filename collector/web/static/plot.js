// Plot: one uPlot chart with the axes, cursor, zoom and phases that all charts share.

import { linearTicks, logTicks } from "./axes.js";
import { tick } from "./format.js";
import { regionHooks, ribbonHeight } from "./regions.js";
import { colour } from "./theme.js";

const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const Y_AXIS_WIDTH = 54;
const RIGHT_MARGIN = 12;
const MANY = 16;

/**
 * Draw a chart into `host`.
 *
 * `view` is what all charts of the page share (board.js). `shape` says what is drawn (shapes.js,
 * heatmap.js); the chart holds it as `u.shape`. `onCursor` is called when the readout should change.
 */
export function drawPlot(host, view, quantity, shape, onCursor) {
  const regions = regionHooks(() => view.phases, quantity);
  const isValue = (column) => shape.inks && (column - 1) % shape.stride === 0; // and not the edge of a band
  const options = {
    width: Math.max(host.clientWidth, 120),
    height: host.clientHeight,
    padding: [() => ribbonHeight(view.phases.tracks), RIGHT_MARGIN, 0, 0],
    legend: { show: false },
    series: [{}, ...shape.series],
    bands: shape.bands ?? [],
    scales: {
      x: { time: false, distr: 100, fwd: (step) => view.axis.at(step), bwd: (x) => view.axis.back(x), range: () => view.range() },
      y: { distr: shape.y.log ? 3 : 1, range: (u) => (u.shape ?? shape).y.range(u) },
    },
    axes: [axisBelow(view), valueAxis(shape)],
    focus: { alpha: 0.25 },
    cursor: {
      y: false,
      focus: { prox: shape.focus ? 24 : -1, dist: (_, column, __, y, cursor) => (isValue(column) ? y - cursor : Infinity) },
      points: {
        one: shape.list.length > MANY, // else each has its own
        size: 7,
        width: 1.5,
        fill: (_, column) => (isValue(column) ? colour("--surface") : "transparent"),
        stroke: (u, column) => (isValue(column) ? u.series[column].stroke(u, column) : "transparent"),
      },
      drag: { x: true, y: false, dist: 6, setScale: false },
      bind: { dblclick: () => () => view.zoom(null) },
      sync: {
        key: view.key,
        scales: ["x", null],
        setSeries: false,
        filters: { pub: (type) => type === "mousemove" || type === "mouseleave" },
      },
    },
    hooks: {
      init: [(u) => (u.shape = shape)],
      drawClear: regions.drawClear,
      drawAxes: [(u) => u.shape.cells?.(u)],
      draw: [(u) => u.shape.paint(u, u.shape), ...regions.draw],
      setCursor: [onCursor],
      setSeries: [(u, column) => ((u.pointed = column), onCursor(u))],
      setSelect: [(u) => zoomTo(u, view)],
    },
  };
  return new uPlot(options, shape.data, host);
}

/** Put new points into a chart of the same series, keeping cursor and zoom. */
export function redraw(u, shape) {
  u.shape = shape;
  u.scales.x.min = null; // where its ends are is looked up again: the axis may have changed between the same steps
  u.setData(shape.data);
}

/** Move the cursor by points, as the arrow keys do; the other charts follow. */
export function moveCursor(u, by) {
  const steps = u.data[0];
  if (steps.length === 0) return;
  const { min, max } = u.scales.x;
  const first = steps.findIndex((step) => step >= min);
  const last = steps.findLastIndex((step) => step <= max);
  const now = u.cursor.left >= 0 ? u.cursor.idx : by > 0 ? first - 1 : last + 1;
  const next = Math.min(Math.max(now + by, first), last);
  if (next < 0) return;
  u.setCursor({ left: u.valToPos(steps[next], "x"), top: u.over.clientHeight / 2 }, true, true);
}

function zoomTo(u, view) {
  const { left, width } = u.select;
  if (width < 6) return;
  const ends = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
  u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  view.zoom(ends);
}

function axisBelow(view) {
  let texts = new Map();
  return {
    ...look(),
    size: 20,
    gap: 4,
    label: "step",
    labelSize: 15,
    labelGap: 1,
    labelFont: FONT,
    splits: (u, axis, low, high) => {
      const { ticks, label } = view.axis.ticks(low, high, Math.floor(u.bbox.width / uPlot.pxRatio / 62));
      u.axes[axis].label = label;
      texts = new Map(ticks.map(({ at, text }) => [at, text]));
      return [...texts.keys()];
    },
    filter: (_, splits) => splits,
    values: (u, splits) => spaced(u, splits, texts),
  };
}

/** Labels that would touch their neighbour or leave the chart are left out; the grid line stays. */
function spaced(u, splits, texts) {
  const end = u.bbox.width / uPlot.pxRatio + RIGHT_MARGIN;
  let free = -Infinity;
  return splits.map((x) => {
    const at = u.valToPos(x, "x");
    const half = (texts.get(x).length * 6.4) / 2;
    if (at - half < free + 6 || at + half > end) return null;
    free = at + half;
    return texts.get(x);
  });
}

function valueAxis(shape) {
  const y = (u) => (u.shape ?? shape).y;
  return {
    ...look(),
    size: Y_AXIS_WIDTH,
    gap: 6,
    splits: (u, _, low, high) => {
      const room = Math.floor(u.bbox.height / uPlot.pxRatio / 34);
      if (y(u).splits) return y(u).splits(room);
      return y(u).log ? logTicks(low, high, room) : linearTicks(low, high, room);
    },
    filter: (_, splits) => splits,
    values: (u, splits) => (y(u).labels ? y(u).labels(splits) : splits.map(tick)),
  };
}

function look() {
  return {
    font: FONT,
    stroke: () => colour("--axis"),
    grid: { stroke: () => colour("--grid"), width: 1 },
    ticks: { show: false },
    border: { show: false },
  };
}
