// Readout: what a card says in numbers, at the cursor or of the latest point.

import { sentence, unit, whole, withError, words } from "./format.js";

const OK = 0;

/** `{ figure, caption, odd, tip }` of a chart; `odd` where the point did not come out ok, `tip` says why. */
export function readout(u, shape, names, quantity, outcomes) {
  const steps = shape?.data[0] ?? [];
  if (!u || steps.length === 0) return { figure: "—", caption: "" };
  const row = u.cursor.left >= 0 ? u.cursor.idx : null;
  const s = pointedAt(u, shape);
  if (s === null) {
    return row === null
      ? { figure: `${shape.list.length} series`, caption: `to step ${whole(steps.at(-1))}` }
      : { figure: `${shape.list.length} series`, caption: `step ${whole(steps[row])}` };
  }
  const { step, value, stderr, outcome } = shape.list[s].current;
  const i = row === null ? step.length - 1 : shape.at[s][row];
  const name = shape.list.length > 1 ? names[s] : "";
  if (i < 0) return { figure: "not measured", caption: captioned(name, `step ${whole(steps[row])}`) };
  const known = outcomes.get(outcome[i]) ?? { label: `outcome ${outcome[i]}`, sentence: "" };
  const label = words(known.label);
  const odd = outcome[i] !== OK;
  return {
    figure: value[i] === null ? label : withError(value[i], stderr[i]),
    caption: captioned(name, `${row === null ? "latest, " : ""}step ${whole(step[i])}`, value[i] === null ? "" : unit(quantity.unit)),
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

function captioned(...parts) {
  return parts.filter(Boolean).join(" · ");
}
