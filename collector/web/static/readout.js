// Readout: what a card says in numbers, at the cursor or of the latest point.

import { sentence, whole, withError, words } from "./format.js";

const OK = 0;
const LONGEST_NAME = 17;

/**
 * `{ figure, caption, odd, tip }` of a chart; `odd` where the point did not come out ok, `tip` says why. `view` knows the outcomes, and
 * when a step was; `all` are the series with all their steps, of which the latest may be out of sight.
 */
export function readout(u, shape, names, { outcomes, axis }, all) {
  const at = (step) => [`step ${whole(step)}`, axis.when(step)].filter(Boolean).join(" · ");
  const steps = shape?.data[0] ?? [];
  if (!u || steps.length === 0) return { figure: "—", caption: "" };
  const row = u.cursor.left >= 0 ? u.cursor.idx : null;
  const s = pointedAt(u, shape);
  if (s === null) {
    return row === null
      ? { figure: `${shape.list.length} series`, caption: `to ${at(Math.max(...all.map(({ current }) => current.step.at(-1) ?? 0)))}` }
      : { figure: `${shape.list.length} series`, caption: at(steps[row]) };
  }
  const { step, value, stderr, outcome } = (row === null ? all : shape.list)[s].current;
  const i = row === null ? step.length - 1 : shape.at[s][row];
  const name = shape.list.length > 1 ? endOf(names[s]) : "";
  if (i < 0) return { figure: "not measured", caption: captioned(name, at(steps[row])) };
  const known = outcomes.get(outcome[i]) ?? { label: `outcome ${outcome[i]}`, sentence: "" };
  const label = words(known.label);
  const odd = outcome[i] !== OK;
  return {
    figure: value[i] === null ? label : withError(value[i], stderr[i]),
    caption: captioned(name, `${row === null ? "latest, " : ""}${at(step[i])}`),
    odd,
    tip: odd && row !== null ? `${sentence(label)}. ${known.sentence}` : "",
  };
}

/** The series the cursor means: the only one, the heatmap's row, or the line nearest to it. */
function pointedAt(u, shape) {
  if (shape.list.length === 1) return 0;
  if (u.cursor.left < 0) return null;
  if (shape.rowAt) return shape.rowAt(u);
  return u.pointed > 0 ? Math.floor((u.pointed - 1) / shape.stride) : null;
}

/** A name that leaves room for the figures; long ones are mostly alike in their beginning. */
function endOf(name) {
  return name.length > LONGEST_NAME ? `…${name.slice(1 - LONGEST_NAME)}` : name;
}

function captioned(...parts) {
  return parts.filter(Boolean).join(" · ");
}
