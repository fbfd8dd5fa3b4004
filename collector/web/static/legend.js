// Legend: which line is which, and how the uncertainty is drawn.

import { el, renew, swatch } from "./dom.js";
import { distinct } from "./format.js";
import { colourKey } from "./heatmap.js";
import { STANDARD_ERRORS } from "./shapes.js";

const MOST_LISTED = 16;

/** Tell `node` what the shape draws; `names` are those of its series. */
export function tellLegend(node, shape, names, unitName) {
  const { kind, inks, uncertain, key } = shape;
  renew(node, [kind, shape.data[0].length > 0, names, inks, uncertain, key, unitName], () => {
    if (names.length === 0 || shape.data[0].length === 0) return [];
    if (kind === "heatmap") return [colourKey(key, unitName)];
    const lines = names.length > MOST_LISTED ? ramp(kind, inks, names) : list(kind, inks, names);
    return kind === "lines" ? [...lines, uncertain ? band(inks[0]) : el("span", { class: "quiet" }, "no uncertainty given")] : lines;
  });
}

function list(kind, inks, names) {
  const short = kind === "layers" ? distinct(names) : names;
  return names.map((name, s) => el("span", { class: "legend-item", title: name }, swatch("line", inks[s]), short[s]));
}

/** Too many to list: the first, the last, and the colours on the way. */
function ramp(kind, inks, names) {
  const short = distinct(names);
  const way = [0, 0.25, 0.5, 0.75, 1].map((share) => swatch("line", inks[Math.round(share * (names.length - 1))]));
  const count = `${names.length} ${kind === "layers" ? "layers by depth" : "series"}`;
  return [el("span", { class: "legend-item" }, short[0], ...way, short.at(-1)), el("span", { class: "quiet" }, count)];
}

function band(ink) {
  return el("span", { class: "legend-item" }, swatch("band", ink), `±${STANDARD_ERRORS} stderr`);
}
