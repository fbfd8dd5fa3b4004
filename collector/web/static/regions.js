// Regions: the phases of a run, painted behind and above every chart.
//
// Above the plot each machine has a ribbon with its phases' names. Behind the plot lies the tint of
// one machine at a time, since overlapping tints would make colours that mean nothing. A solid rule
// is where a transition happened, a dotted one where it was known. What is only suspected is not
// painted; where a claim was withdrawn its stretch of the ribbon is hatched.

import { words } from "./format.js";
import { faint } from "./palette.js";
import { inkOf, phaseName } from "./phases.js";
import { colour } from "./theme.js";

export const RIBBON = 15;
const GAP = 3;
const FONT = '500 10px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

/** Space above the plot for the ribbons of tracks, in CSS pixels. */
export function ribbonHeight(tracks) {
  return tracks.length ? tracks.length * (RIBBON + GAP) + GAP + lift(tracks) : 8;
}

/** Beside the ribbons of runs stand their colours, and must not touch the topmost tick. */
function lift(tracks) {
  return tracks[0]?.tone ? 6 : 0;
}

/** Where a ribbon begins, the first of them lowest but of runs highest, in the order in which they are listed. */
function crown({ top, scale }, row, tracks) {
  const place = tracks[0].tone ? tracks.length - 1 - row : row;
  return top - ((place + 1) * (RIBBON + GAP) + lift(tracks)) * scale;
}

/**
 * uPlot hooks that paint `phases()`: `{ tracks, highlighted, marks }`, see phases.js and marks.js. Tracks with a
 * `tone` are each of another run: they are told apart by the run's colour, and nothing is tinted.
 */
export function regionHooks(phases, quantity) {
  return {
    drawClear: [(u) => painted(u, (brush) => behind(brush, phases(), quantity))],
    draw: [(u) => painted(u, (brush) => above(brush, phases()))],
  };
}

function painted(u, paint) {
  const scale = uPlot.pxRatio;
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  paint({
    u,
    ctx: u.ctx,
    scale,
    left,
    top,
    right: left + width,
    bottom: top + height,
    x: (step) => Math.min(Math.max(u.valToPos(Math.max(step, u.scales.x.min), "x", true), left), left + width),
    first: u.scales.x.min,
    last: u.scales.x.max,
  });
  u.ctx.restore();
}

function behind(brush, { tracks, highlighted }, quantity) {
  const { ctx, top, bottom, x } = brush;
  const tinted = tracks.find((track) => highlighted && track.key === highlighted.key) ?? tracks.find((track) => track.spans.length > 1 && !track.tone);
  for (const span of tinted?.spans ?? []) {
    const from = x(span.since_step);
    const to = span.until_step === null ? brush.right : x(span.until_step);
    if (span.withdrawn) continue; // its ribbon says what was thought
    ctx.fillStyle = faint(inkOf(tinted, span.phase), 0.1);
    ctx.fillRect(from, top, to - from, bottom - top);
  }
  if (highlighted) evidence(brush, highlighted.transition, quantity);
}

/** The windows a transition was judged by; on the chart of the series judged, their means and errors as well. */
function evidence(brush, transition, quantity) {
  const { ctx, top, bottom, scale, x } = brush;
  const ink = colour("--evidence");
  const { before, after } = transition.evidence;
  const [first, last] = transition.happened_between;
  if (last >= brush.first && first <= brush.last) hatch(brush, x(first), x(last), faint(ink, 0.3));
  for (const [name, window] of [["before", before], ["after", after]]) {
    if (window.last_step < brush.first || window.first_step > brush.last) continue;
    const from = x(window.first_step) - scale;
    const to = Math.max(x(window.last_step) + scale, from + 3 * scale);
    ctx.fillStyle = faint(ink, 0.14);
    ctx.fillRect(from, top, to - from, bottom - top);
    ctx.fillStyle = ink;
    ctx.fillRect(from, bottom - 3 * scale, to - from, 3 * scale);
    const [edge, align] = window === before ? [to - 4 * scale, "right"] : [from + 4 * scale, "left"]; // apart from each other
    label(brush, name, edge, bottom - 11 * scale, ink, align);
    if (judged(brush.u, transition.evidence, quantity)) level(brush, window, from, to, ink);
  }
}

function judged(u, evidence, quantity) {
  const same = (series) => JSON.stringify(Object.entries(series.labels).sort()) === JSON.stringify(Object.entries(evidence.labels).sort());
  return evidence.quantity === quantity && !u.shape.cells && u.shape.list.some(same);
}

function level({ u, ctx, top, bottom, scale }, { mean, stderr }, from, to, ink) {
  const y = (value) => Math.min(Math.max(u.valToPos(value, "y", true), top), bottom);
  if (mean === null || mean < u.scales.y.min || mean > u.scales.y.max) return;
  const [high, low] = [y(mean + (stderr ?? 0)), y(Math.max(mean - (stderr ?? 0), u.scales.y.min))];
  ctx.fillStyle = faint(ink, 0.35);
  ctx.fillRect(from, high, to - from, low - high);
  ctx.fillStyle = ink;
  ctx.fillRect(from, y(mean) - scale, to - from, 2 * scale);
}

function hatch({ ctx, top, bottom, scale }, from, to, ink) {
  ctx.save();
  ctx.beginPath();
  ctx.rect(from, top, Math.max(to - from, scale), bottom - top);
  ctx.clip();
  ctx.strokeStyle = ink;
  ctx.lineWidth = scale;
  ctx.beginPath();
  const rise = bottom - top;
  for (let x = from - rise; x < to; x += 6 * scale) {
    ctx.moveTo(x, bottom);
    ctx.lineTo(x + rise, top);
  }
  ctx.stroke();
  ctx.restore();
}

function above(brush, { tracks, marks }) {
  for (const { step, text } of marks) mark(brush, step, text);
  for (const [row, track] of tracks.entries()) {
    const above = crown(brush, row, tracks);
    ribbon(brush, above, track);
    const at = track.at ?? ((step) => step);
    for (const transition of track.transitions) {
      const ink = track.tone ? colour(track.tone) : inkOf(track, transition.to_phase);
      rule(brush, at(transition.happened_step), ink, [], above, above + RIBBON * brush.scale); // not across other machines' names
      rule(brush, at(transition.happened_step), ink, []);
      if (!track.tone) rule(brush, transition.known_step, ink, [1.5, 3]);
    }
  }
}

/** A dashed rule where the set of trained parameters changed, and what it became, where there is room. */
function mark(brush, step, text) {
  const ink = colour("--mark");
  rule(brush, step, ink, [5, 3]);
  if (step < brush.first || step > brush.last) return;
  const { ctx, scale, x, right, top } = brush;
  ctx.font = scaled(FONT, scale);
  const wide = ctx.measureText(text).width + 4 * scale;
  const left = x(step) + 2 * scale + wide > right;
  const from = x(step) + (left ? -wide - 2 * scale : 2 * scale);
  const edge = isFree(brush, from, from + wide, top + 16 * scale) ? top : brush.bottom - 24 * scale; // above the marks of outcomes
  ctx.fillStyle = faint(colour("--surface"), 0.85); // other rules may run through
  ctx.fillRect(from, edge + 2 * scale, wide, 12 * scale);
  label(brush, text, x(step) + (left ? -4 : 4) * scale, edge + 8 * scale, ink, left ? "right" : "left");
}

/** Whether no curve is above a height between two places. */
function isFree({ u }, from, to, height) {
  const { inks, stride } = u.shape;
  const steps = u.data[0];
  const at = (row) => u.valToPos(steps[row], "x", true);
  for (let row = 0; row < steps.length; row++) {
    if (at(row + 1) < from || at(row - 1) > to) continue; // the line to the next one may cross it
    for (let column = 1; inks && column < u.data.length; column += stride) {
      const value = u.data[column][row];
      if (value !== null && value !== undefined && u.valToPos(value, "y", true) < height) return false;
    }
  }
  return true;
}

function ribbon(brush, y, track) {
  const { ctx, scale, x } = brush;
  if (track.tone) {
    ctx.fillStyle = colour(track.tone);
    ctx.fillRect(brush.left - 18 * scale, y + (RIBBON / 2 - 1) * scale, 14 * scale, 2 * scale); // as in the legend
  }
  const at = (step) => x(track.at ? track.at(step) : step);
  for (const [i, span] of track.spans.entries()) {
    const from = at(span.since_step);
    const end = track.end ? at(track.end()) : brush.right;
    const to = span.until_step === null ? end : at(span.until_step);
    if (to <= from) continue;
    const wide = to - from - (span.until_step === null ? 0 : scale);
    if (span.withdrawn) {
      hatch({ ...brush, top: y, bottom: y + RIBBON * scale }, from, from + wide, faint(inkOf(track, span.phase), 0.55));
      continue;
    }
    ctx.fillStyle = faint(inkOf(track, span.phase), 0.22);
    ctx.fillRect(from, y, wide, RIBBON * scale);
    const room = to - from - 10 * scale;
    ctx.font = scaled(FONT, scale);
    const text = fit(ctx, !track.tone && (span.until_step === null || i === 0) ? [phaseName(span.machine, span.phase), words(span.phase)] : [words(span.phase)], room);
    if (text) label(brush, text, from + 5 * scale, y + (RIBBON / 2 + 0.5) * scale, colour("--text"), "left");
  }
}

function rule(brush, step, ink, dash, top = brush.top, bottom = brush.bottom) {
  const { ctx, scale, x, first, last } = brush;
  if (step < first || step > last) return;
  const at = Math.round(x(step)) + (scale === 1 ? 0.5 : 0);
  ctx.strokeStyle = ink;
  ctx.lineWidth = (dash.length ? 1.5 : 1.25) * scale;
  ctx.setLineDash(dash.map((length) => length * scale));
  ctx.beginPath();
  ctx.moveTo(at, top);
  ctx.lineTo(at, bottom);
  ctx.stroke();
  ctx.setLineDash([]);
}

function label({ ctx, scale }, text, x, y, ink, align) {
  ctx.font = scaled(FONT, scale);
  ctx.textAlign = align;
  ctx.textBaseline = "middle";
  ctx.fillStyle = ink;
  ctx.fillText(text, x, y);
}

/** The first wording that fits, or the last one cut short, or nothing where even that says nothing. */
function fit(ctx, wordings, room) {
  for (const text of wordings) if (ctx.measureText(text).width <= room) return text;
  let text = wordings.at(-1);
  while (text.length > 3 && ctx.measureText(`${text}…`).width > room) text = text.slice(0, -1);
  return text.length > 3 ? `${text.trimEnd()}…` : "";
}

function scaled(font, scale) {
  return font.replace(/(\d+)px/, (_, size) => `${size * scale}px`);
}
