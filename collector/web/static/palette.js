// Colours that carry meaning and can be told apart by everyone: depth by viridis, phases by hue and label.

import { colour, isDark } from "./theme.js";

const HUES = 5;

// Nine stops of viridis (van der Walt and Smith 2015): lightness rises evenly, so it reads in grey too.
const VIRIDIS = [
  [68, 1, 84],
  [71, 44, 122],
  [59, 81, 139],
  [44, 113, 142],
  [33, 144, 141],
  [39, 173, 129],
  [92, 200, 99],
  [170, 220, 50],
  [253, 231, 37],
];

/** The colour of a share from 0 to 1. */
export function sequential(share) {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const mixed = VIRIDIS[low].map((from, i) => Math.round(from + (VIRIDIS[low + 1][i] - from) * (at - low)));
  return `rgb(${mixed.join(" ")})`;
}

/** The colour of the line of one layer, by its depth; the ends that the background would swallow are left out. */
export function byDepth(index, count) {
  const share = count > 1 ? index / (count - 1) : 0.5;
  return sequential(isDark() ? 0.25 + 0.75 * share : 0.85 * share);
}

/** The colour of a phase by its number; 0, grey, is where every run begins. */
export function phaseColour(hue) {
  return colour(phaseProperty(hue));
}

/** The same for an element, which follows the theme by itself. */
export function phaseTone(hue) {
  return `var(${phaseProperty(hue)})`;
}

function phaseProperty(hue) {
  return hue === 0 ? "--phase-0" : `--phase-${1 + ((hue - 1) % HUES)}`;
}

/** The same colour, faint; from `#rrggbb` or `rgb(r g b)`. `share` is its opacity. */
export function faint(solid, share) {
  const parts = solid.startsWith("#")
    ? [1, 3, 5].map((at) => Number.parseInt(solid.slice(at, at + 2), 16))
    : solid.match(/\d+/g).map(Number);
  return `rgb(${parts.slice(0, 3).join(" ")} / ${share})`;
}
